"""Contrastive gradients for batches that do not fit into memory (GradCache, arXiv 2101.06983).

The loss couples all samples, the towers do not. So: (1) embed every chunk without a graph, remembering the RNG state
it started from; (2) take the loss over all features and its gradient with respect to them; (3) embed each chunk
again, with its RNG state restored so that dropout falls the same way, and push the features' gradient through. The
gradient is the full batch's. Memory: one chunk's activations and all features. Cost: a second forward pass; where no
part has more than one chunk there is none, and none of the chunks whose graph is kept from (1)
(:mod:`mmret.retriever.train.kept_graphs`), which leaves the same bits. With several processes each embeds its own chunks, and
features and their gradients are exchanged at (2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from mmret.devices import free_memory
from mmret.memory import give_back
from mmret.retriever.train.exchange import Exchange, Place
from mmret.retriever.train.kept_graphs import KeptGraphs
from mmret.retriever.train.part import Part

SHARE_OF_FREE_MEMORY = 1 / 3
"""That a chunk's activations may take: the rest is for gradients, features and the next step's pictures."""

NUMBERS_A_WIDTH = 34
"""That a transformer layer keeps for its backward pass, for each token, over its width, beside its attention (arXiv 2205.05198)."""

MANY_SCORES = 2**21
"""Products of rows of one part and of the other from which on what the loss has used goes back to the system before the second
pass, which would not fit into it: some milliseconds."""


def cached_backward(
    parts: Sequence[Part],
    loss_of: Callable[..., torch.Tensor],
    exchange: Exchange | None = None,
    kept: KeptGraphs | None = None,
) -> torch.Tensor:
    """Accumulate the gradient of ``loss_of(features of part 0, features of part 1, ...)``; returns the detached loss,
    a scalar.

    With several processes ``loss_of`` is this process's addend, as is what is returned; the parameters' gradients are complete
    after :meth:`mmret.retriever.train.exchange.Exchange.sum_gradients`. ``exchange`` None: one process. ``kept``: what may be kept
    between the passes, None: nothing.
    """
    exchange, kept = exchange or Exchange(), kept or KeptGraphs()
    group, parts = exchange.group, exchange.even(parts)
    calls = [[partial(part.encode, chunk) for chunk in part.chunks] for part in parts]
    counts = [len(own) for own in calls]
    at_once = all(count <= 1 for count in counts)
    states: dict[Place, list[Any]] = {}
    if at_once:
        passed = iter(exchange.forward([call for own in calls for call in own]))
        rows = [[next(passed) for _ in own] for own in calls]
    else:
        kept.begin()
        rows = [
            [_embedded((part, chunk), call, states, exchange, kept) for chunk, call in enumerate(own)]
            for part, own in enumerate(calls)
        ]
    made = [part.in_order(torch.cat(of)) if of else part.empty for part, of in zip(parts, rows, strict=True)]
    if at_once and group.size == 1:
        loss = loss_of(*made)
        loss.backward()
        return loss.detach()
    after = rng_state()
    features = [group.gather_rows(of.detach(), part.total).requires_grad_() for part, of in zip(parts, made, strict=True)]
    loss, gradients = kept.or_without(partial(_loss_and_gradients, loss_of, features))
    if not at_once and features[0].device.type == "cpu" and math.prod(map(len, features[:2])) > MANY_SCORES:
        give_back()
    group.sum(gradients)
    own_gradients = [
        part.of_chunks(gradient[group.share(len(gradient))] if group.size > 1 else gradient).split([len(chunk) for chunk in of])
        for part, gradient, of in zip(parts, gradients, rows, strict=True)
    ]
    if at_once:
        exchange.backward([row for of in rows for row in of], [gradient for of in own_gradients for gradient in of])
    else:
        second = partial(_second_pass, exchange.rounds(counts), calls, own_gradients, states, exchange, kept)
        if exchange.repeatable:
            kept.or_without(second)
        else:
            second()
    set_rng_state(after)
    return loss.detach()


def _embedded(
    place: Place, call: Callable[[], torch.Tensor], states: dict[Place, list[Any]], exchange: Exchange, kept: KeptGraphs
) -> torch.Tensor:
    """Features of a chunk without their graph, which may be kept; ``states`` gets the RNG state it started from."""
    states[place] = rng_state()
    rows = kept.encode(place, call)
    if rows is None:
        set_rng_state(states[place])
        with torch.no_grad():
            rows = exchange.forward([call])[0]
    return rows


def _loss_and_gradients(
    loss_of: Callable[..., torch.Tensor], features: list[torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    loss = loss_of(*features)
    found = torch.autograd.grad(loss, features, allow_unused=True)
    return loss.detach(), [torch.zeros_like(of) if g is None else g for of, g in zip(features, found, strict=True)]


def _second_pass(
    rounds: list[list[Place]],
    calls: list[list[Callable[[], torch.Tensor]]],
    gradients: list[Sequence[torch.Tensor]],
    states: dict[Place, list[Any]],
    exchange: Exchange,
    kept: KeptGraphs,
) -> None:
    """Push the gradient of every chunk's features through its graph, round by round."""
    for number, places in enumerate(rounds, 1):
        again = [_again(kept.take(place), states[place], calls[place[0]][place[1]]) for place in places]
        with exchange.more_to_come() if number < len(rounds) else nullcontext():
            exchange.backward(exchange.forward(again), [gradients[part][chunk] for part, chunk in places])


def _again(kept: torch.Tensor | None, state: list[torch.Tensor], call: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """The features of a chunk with their graph: as they were ``kept``, or made once more."""

    def again() -> torch.Tensor:
        if kept is not None:
            return kept
        set_rng_state(state)
        return call()

    return again


def rng_state() -> list[torch.Tensor]:
    """State of torch's CPU generator, and of this process's CUDA device where there is one."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])]


def set_rng_state(state: list[torch.Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1 and torch.cuda.is_available():
        torch.cuda.set_rng_state(state[1])


def fitting_chunk(device: torch.device, itemsize: int, layers: Iterable[tuple[int, int, int]]) -> int:
    """Rows whose activations take a third of the memory that is free on ``device``, a power of two.

    ``layers``: (tokens, width, heads) of every layer that keeps its activations, of ``itemsize`` bytes a number. A
    transformer layer keeps about :data:`NUMBERS_A_WIDTH` * width + 5 * heads * tokens numbers per token for its backward
    pass (arXiv 2205.05198, which counts bytes of two-byte numbers and an attention matrix). That is twice what is kept where
    attention is fused, which is room for texts longer than ``tokens`` and for what is not foreseen;
    :mod:`mmret.retriever.train.chunk_memory` says what a pass takes to the tenth.
    """
    numbers = sum(tokens * (NUMBERS_A_WIDTH * width + 5 * heads * tokens) for tokens, width, heads in layers)
    return 2 ** int(math.log2(max(1.0, SHARE_OF_FREE_MEMORY * free_memory(device) / max(1, numbers * itemsize))))
