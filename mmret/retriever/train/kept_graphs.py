"""Which passes of a step keep their activations until their gradient is there, so that GradCache need not make them again.

The first pass of :mod:`mmret.retriever.train.gradcache` may as well have a graph: then the second one is that graph's backward
pass, with the same numbers in the same order, and the weights are the same bits. A quarter of the work goes. What a graph takes
is counted as it is made, each storage once, and as many chunks of a step keep theirs, the first ones, as a third of the memory that
was free before the first step holds; the others are embedded twice. A pass that goes beyond that room, the first of a run too,
ends there and is made again without a graph. Where a GPU has no room after all, what was kept is dropped
and nothing is kept any more. Cost: a call of Python for every tensor that is kept, under a hundredth of a pass on a tiny model.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from mmret.devices import free_memory
from mmret.retriever.train.exchange import Exchange, Place

SHARE_OF_FREE_MEMORY = 1 / 3
"""That kept activations may take: as much for a chunk's passes, and the rest for features, pictures and whatever else runs."""


class _NoRoom(Exception):
    """A pass has kept more than there is room for."""


class KeptGraphs:
    """What a step keeps of its first pass, by chunk. ``room``: bytes that all of it may take, None before :meth:`decide`."""

    def __init__(self, room: int | None = 0, parameters: Sequence[torch.nn.Parameter] = ()):
        """``parameters``: the model's, which are there anyway and count as nothing."""
        self.room, self.taken, self.largest = room, 0, 0
        self.most, self.passes, self.made_once = 0, 0, 0
        self.rows: dict[Place, torch.Tensor] = {}
        self._sizes: dict[int, int] = {}  # of this step, by storage; those that are kept live until they are used
        self._fresh = True
        self._parameters = parameters
        self._held = {parameter.untyped_storage().data_ptr() for parameter in parameters}

    def begin(self) -> None:
        """A step begins."""
        self.rows, self.taken, self._sizes = {}, 0, {}
        self._fresh = all(parameter.grad is None for parameter in self._parameters)

    def encode(self, place: Place, call: Callable[[], torch.Tensor]) -> torch.Tensor | None:
        """The features that ``call()`` gives, their graph kept; None where there is no room for it, or for one as large as any so
        far, and ``call`` may have been made in vain, or in part."""
        self.passes += 1
        if not self.room or self.taken + self.largest > self.room:
            return None
        before, rows, memory = self.taken, None, True
        try:
            with torch.enable_grad(), self._counted():
                rows = call()
        except _NoRoom:
            pass  # what the failed call has made is free behind this block
        except torch.OutOfMemoryError:
            memory = False
        if not memory:
            self.drop()
            return None
        self.largest = max(self.largest, self.taken - before)
        if rows is None:
            self.taken = before
            return None
        self.rows[place] = rows
        self.made_once += 1
        self.most = max(self.most, self.taken)
        return rows.detach()

    def take(self, place: Place) -> torch.Tensor | None:
        """The features of a chunk with their graph, which is kept no longer; None where it was not."""
        return self.rows.pop(place, None)

    def drop(self) -> None:
        """Free what is kept, and keep nothing any more."""
        self.made_once -= len(self.rows)
        self.rows, self.taken, self.room = {}, 0, 0
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def or_without(self, call: Callable[[], Any]) -> Any:
        """``call()``; where memory ran out with something kept, ``call()`` again with nothing kept and the gradients as they were
        when the step began. Raises what ``call`` does where that cannot be had: nothing was kept, or gradients were there."""
        kept = bool(self.rows)
        try:
            return call()
        except torch.OutOfMemoryError:
            if not kept or not self._fresh:
                raise
        self.drop()
        for parameter in self._parameters:
            parameter.grad = None
        return call()

    def says(self) -> str | None:
        """How many passes were made once so far, in a sentence; None where there was no second pass to save."""
        if not self.passes:
            return None
        share = 100 * self.made_once / self.passes
        return (
            f"{share:.0f} % of the passes kept their activations and were made once, the others twice: "
            f"{self.most / 2**20:,.0f} MiB at most, of {_shown(self.room)} that they may take"
        )

    def _counted(self) -> AbstractContextManager:
        """Within it, what is kept for a backward pass is counted. Raises _NoRoom where it is more than the room."""

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if (place := storage.data_ptr()) not in self._held:
                size = storage.nbytes()
                self.taken += size - self._sizes.get(place, 0)
                self._sizes[place] = size
                if self.taken > self.room:
                    raise _NoRoom
            return tensor.detach()  # an operation that saves its own result would keep itself alive

        return torch.autograd.graph.saved_tensors_hooks(keep, _as_it_is)


def room_for(setting: str, exchange: Exchange, parameters: Sequence[torch.nn.Parameter], state: Iterable[torch.Tensor]) -> int:
    """Bytes that the activations of a step may take by a recipe's ``keep_activations``, the same in all processes, which all take
    part. ``state``: what the optimiser of ``parameters`` has already."""
    if setting == "never" or not exchange.keeps_graphs:
        return 0
    if setting == "always":
        return sys.maxsize
    device = parameters[0].device
    free = free_memory(device)
    if device.type == "cuda":  # what torch holds without using it
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    trained = sum(p.numel() * p.element_size() for p in parameters)
    to_come = trained + max(0, 2 * trained - sum(tensor.nbytes for tensor in state))  # gradients, and two moments of each
    on_device = 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", exchange.group.size))
    return min(exchange.group.all_values(int(SHARE_OF_FREE_MEMORY * max(0, free // on_device - to_come))))


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _shown(room: int | None) -> str:
    return "all" if room == sys.maxsize else f"{(room or 0) / 2**20:,.0f} MiB"
