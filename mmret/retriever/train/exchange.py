"""How the gradients of several processes become one: our own sum, torch's DDP, or FSDP2, which also divides the model.

GradCache (:mod:`mmret.retriever.train.gradcache`) stands above all three and its gradient stays exact: it has a chunk's features
computed, without a graph and again with one, and pushes their gradient through; how that is done is said here.

| ``parallel`` | every process holds | over the network, per step |
|---|---|---|
| ``sum`` | the whole model | the trained parameters' gradients once, after the last chunk |
| ``ddp`` | the whole model | the same, in buckets, while the last chunks' backward pass still runs |
| ``fsdp`` | 1/n of all, and one block at a time | parameters twice a chunk (thrice with GradCache), gradients once a chunk |

Features are exchanged by :class:`mmret.retriever.train.parallel.Group` whichever it is. Costs nothing with one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from mmret.optimizer import Optimizers
from mmret.retriever.train.parallel import SINGLE_PROCESS, Group
from mmret.retriever.train.part import Part

Call = Callable[[], torch.Tensor]
"""Computes the features of one chunk."""
Place = tuple[int, int]
"""A chunk: number of its part, and of the chunk in that part."""


class Exchange:
    """``sum``: passes run as they are, and :meth:`sum_gradients` adds up what they left, once a step."""

    measured_by_all = False
    """Whether every process takes part where something is encoded as at inference."""
    keeps_graphs = True
    """Whether a chunk's graph may be made in a step's first pass and pushed through after those of others."""
    repeatable = True
    """Whether a process may begin a step's backward passes again by itself."""

    def __init__(self, group: Group = SINGLE_PROCESS):
        self.group = group

    def even(self, parts: Sequence[Part]) -> Sequence[Part]:
        """``parts`` with as many chunks in every process, where that is needed."""
        return parts

    def rounds(self, counts: Sequence[int]) -> list[list[Place]]:
        """Which chunks go through the model together, in GradCache's second pass; ``counts``: chunks of each part."""
        return [[place] for place in _places(counts)]

    def forward(self, calls: Sequence[Call]) -> list[torch.Tensor]:
        """What the calls give: with a graph, of which :meth:`backward` is called next, unless gradients are off."""
        return [call() for call in calls]

    def backward(self, rows: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> None:
        """Push ``gradients`` through what :meth:`forward` gave."""
        pushed = [(row, gradient) for row, gradient in zip(rows, gradients, strict=True) if row.requires_grad]
        if pushed:
            torch.autograd.backward([row for row, _ in pushed], [gradient for _, gradient in pushed])

    def more_to_come(self) -> AbstractContextManager:
        """For the passes of a step before its last one: gradients stay where they are."""
        return nullcontext()

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """After a step's last pass, the gradients are those of all processes together."""
        self.group.sum_gradients(parameters)

    def norm(self, own: torch.Tensor) -> torch.Tensor:
        """The norm over all processes of which ``own`` is what this one knows."""
        return own

    def inference(self, call: Callable[[], Any]) -> Any:
        """``call()``, which encodes as at inference."""
        return call()

    def whole(self, value: Any) -> Any:
        """``value``, a tree of dicts, lists and tensors, with whole tensors. All processes take part."""
        return value

    def divided(self, value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """This process's share of a whole ``value``, as ``like`` is divided."""
        return value

    def saving(self) -> AbstractContextManager:
        """Within it the first process's parameters are whole. All processes take part."""
        return nullcontext()


class Ddp(Exchange):
    """``ddp``: torch's DistributedDataParallel. The last chunks of all parts go through together, and meanwhile it adds up.

    It sums, as everything here, instead of taking the mean, and its buckets stay as they are (which parameters were used is found
    anew in every step), so a resumed run adds up in the order of an undisturbed one.
    """

    repeatable = False

    def __init__(self, group: Group, model: torch.nn.Module):
        super().__init__(group)
        self.wrapped = torch.nn.parallel.DistributedDataParallel(
            _Passes(model), broadcast_buffers=False, find_unused_parameters=True, init_sync=False
        )
        self.wrapped.register_comm_hook(None, _add_up)
        self._anchor: torch.Tensor | None = None

    def rounds(self, counts: Sequence[int]) -> list[list[Place]]:
        last = [(part, count - 1) for part, count in enumerate(counts) if count]
        return [[place] for place in _places(counts) if place not in last] + [last]

    def forward(self, calls: Sequence[Call]) -> list[torch.Tensor]:
        if not torch.is_grad_enabled():
            return super().forward(calls)
        *rows, self._anchor = self.wrapped([*calls, self._nothing])
        return rows

    def backward(self, rows: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> None:
        if any(row.requires_grad for row in rows):
            super().backward(rows, gradients)
        else:  # the others wait for this process too
            self._anchor.backward()

    def _nothing(self) -> torch.Tensor:
        """A zero that one parameter takes part in."""
        return next(p for p in self.wrapped.parameters() if p.requires_grad).flatten()[0] * 0

    def more_to_come(self) -> AbstractContextManager:
        return self.wrapped.no_sync()

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        pass


class Fsdp(Exchange):
    """``fsdp``: torch's fully_shard (FSDP2). Each member of the model's lists of blocks is gathered for as long as it computes.

    Gathering is done in step with the other processes. So all of them make as many passes, through the same blocks: who has fewer
    chunks, or no picture in one where another process has, adds a row whose features are dropped and whose gradient is zero.
    """

    measured_by_all = True
    keeps_graphs = False  # whose blocks would be gathered out of the order in which they are prefetched
    repeatable = False

    def __init__(self, group: Group, model: torch.nn.Module, called_in_parts: Sequence[torch.nn.Module] = ()):
        """``called_in_parts``: blocks of which the embedder calls the inside, so that they cannot be gathered as one."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard

        super().__init__(group)
        self.model, self.passes = model, _Passes(model)
        device = torch.device(group.device)
        mesh = init_device_mesh(device.type, (group.size,))
        scalars = {p for p in model.parameters() if p.ndim == 0}  # which fully_shard does not divide
        for scalar in scalars:
            scalar.data = scalar.data.to(device)
        self.scalars = [p for p in scalars if p.requires_grad]
        for unit in _units(model, called_in_parts):
            fully_shard(unit, mesh=mesh, ignored_params=scalars)
        fully_shard(self.passes, mesh=mesh, ignored_params=scalars)
        self.sharded = [module for module in self.passes.modules() if isinstance(module, FSDPModule)]
        for module in self.sharded:
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)

    def even(self, parts: Sequence[Part]) -> Sequence[Part]:
        every = self.group.all_values([[part.shows(chunk) for chunk in part.chunks] for part in parts])
        made = []
        for n, part in enumerate(parts):
            shows = [of[n] for of in every]
            chunks: list[tuple[Any, slice]] = []
            for at in range(max(map(len, shows))):
                own = part.chunks[at] if at < len(part.chunks) else None
                needed = any(of[at] for of in shows if at < len(of))
                if own is not None and (part.shows(own) or not needed):
                    chunks.append((own, slice(None)))
                else:
                    chunks.append((part.fill(own, needed), slice(-1)))
            made.append(replace(part, encode=_dropping(part.encode), chunks=chunks))
        return made

    def forward(self, calls: Sequence[Call]) -> list[torch.Tensor]:
        return self.passes(calls)

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._reshard()
        if self.scalars:
            self.group.sum_gradients(self.scalars)

    def norm(self, own: torch.Tensor) -> torch.Tensor:
        return own.full_tensor()

    def inference(self, call: Callable[[], Any]) -> Any:
        with torch.no_grad():
            found = self.passes([call])[0]
        self._reshard()
        return found

    def whole(self, value: Any) -> Any:
        from torch.distributed.tensor import DTensor

        if isinstance(value, dict):
            return {key: self.whole(of) for key, of in value.items()}
        if isinstance(value, list | tuple):
            return [self.whole(of) for of in value]
        if not isinstance(value, DTensor):
            return value
        made = value.detach().full_tensor()
        return made.cpu() if self.group.first else None

    def divided(self, value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(like, DTensor) or value.shape != like.shape:
            return value
        value = value.to(like.device, like.dtype)
        return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)

    @contextmanager
    def saving(self) -> Iterator[None]:
        self._reshard()
        divided = [(module, name, p) for module in self.model.modules() for name, p in module._parameters.items() if p is not None]
        made: dict[int, torch.nn.Parameter] = {}
        for _, _, parameter in divided:
            if id(parameter) not in made:
                whole = self.whole(parameter)
                made[id(parameter)] = parameter if whole is None else torch.nn.Parameter(whole.detach(), parameter.requires_grad)
        try:
            for module, name, parameter in divided:
                module._parameters[name] = made[id(parameter)]
            yield
        finally:
            for module, name, parameter in divided:
                module._parameters[name] = parameter

    def _reshard(self) -> None:
        for module in self.sharded:
            module.reshard()


class _Passes(torch.nn.Module):
    """The model as torch's wrappers want it, with one ``forward`` for whatever an embedder calls of it."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        return [call() for call in calls]


def exchange_of(parallel: str, group: Group, embedder: Any) -> Exchange:
    """What the recipe's ``parallel`` names, around the embedder's model; with one process nothing is exchanged."""
    if group.size == 1 or parallel == "sum":
        return Exchange(group)
    if parallel == "ddp":
        return Ddp(group, embedder.model)
    return Fsdp(group, embedder.model, embedder.divide())


def restore_optimizer(optimizer: Optimizers, state: Any, exchange: Exchange) -> None:
    """Take up a whole ``state`` of :meth:`Optimizers.state_dict`, however many processes wrote it and in whatever way."""
    states = [state] if isinstance(state, dict) else state
    divided = []
    for part, own in zip(optimizer.parts, states, strict=False):
        parameters = [p for group in part.param_groups for p in group["params"]]
        of = {
            n: {k: exchange.divided(v, parameters[n]) if torch.is_tensor(v) else v for k, v in values.items()}
            for n, values in own["state"].items()
        }
        divided.append({**own, "state": of})
    optimizer.load_state_dict(divided + list(states[len(divided) :]))


def _places(counts: Sequence[int]) -> list[Place]:
    return [(part, chunk) for part, count in enumerate(counts) for chunk in range(count)]


def _dropping(encode: Callable[[Any], torch.Tensor]) -> Callable[[tuple[Any, slice]], torch.Tensor]:
    return lambda chunk: encode(chunk[0])[chunk[1]].clone()  # fully_shard's hooks want no view


def _add_up(state, bucket):  # without annotations, which DDP looks at and which are strings here
    """DDP's exchange of a bucket, as a sum."""
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda done: done.value()[0])


def _units(model: torch.nn.Module, called_in_parts: Sequence[torch.nn.Module]) -> list[torch.nn.Module]:
    """Members of the outermost lists of modules, a transformer's blocks, and an output head that nothing calls."""
    units: list[torch.nn.Module] = []
    inside: set[int] = set()
    for module in model.modules():  # outer ones first
        if isinstance(module, torch.nn.ModuleList) and id(module) not in inside:
            inside |= {id(m) for m in module.modules()}
            units += [block for block in module if not any(block is other for other in called_in_parts)]
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        units.append(head)
    return units
