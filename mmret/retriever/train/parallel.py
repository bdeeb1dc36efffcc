"""Processes that train one model together: how they divide a step, and what they add up.

Each process embeds its share of a step's distinct images and texts, so the cluster as a whole embeds each of them once;
their features are exchanged, and each process takes the loss of its own queries against every candidate (*local loss,
global negatives*). The features' gradients are added up over the processes, and so, once a step, are the parameters'.
The sum is the gradient a single process would have computed from the whole batch. Cost per step: all features twice
and all trained parameters once over the network, whatever the number of chunks.

Started by torchrun, ``accelerate launch`` or Ray Train, whose environment variables :meth:`Group.join` reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = timedelta(hours=12)
"""How long a process waits for the others: the first may be computing frozen features of the whole corpus."""
BUCKET = 32 * 2**20
"""Numbers summed in one message."""


class Group:
    """The processes of one run; a group of one does nothing and costs nothing."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size

    @classmethod
    @contextmanager
    def join(cls) -> Iterator[Group]:
        """The group that the environment of torchrun, accelerate or Ray Train describes; this process alone where there is none."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            yield SINGLE_PROCESS
            return
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if gpus:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
        if dist.is_initialized():  # by Ray Train, which also ends it
            yield cls(dist.get_rank(), dist.get_world_size())
            return
        dist.init_process_group("nccl" if gpus else "gloo", timeout=PATIENCE)
        try:
            yield cls(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    @property
    def device(self) -> str:
        """Where this process's model lies: the GPU of its rank, or the CPU where there is none."""
        if not torch.cuda.is_available():
            return "cpu"
        return "cuda" if self.size == 1 else f"cuda:{torch.cuda.current_device()}"

    def share(self, total: int) -> slice:
        """Which of ``total`` items are this process's; of few items some processes have none."""
        return slice(self.rank * total // self.size, (self.rank + 1) * total // self.size)

    def gather_rows(self, local_rows: torch.Tensor, total: int) -> torch.Tensor:
        """Rows (total, d) of all processes, of which ``local_rows`` are this one's :meth:`share`."""
        if self.size == 1:
            return local_rows
        rows = local_rows.new_zeros((total, *local_rows.shape[1:]))
        rows[self.share(total)] = local_rows
        dist.all_reduce(rows)
        return rows

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the processes, which end with the same bits."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            dist.all_reduce(flat)
            start = 0
            for tensor in bucket:
                tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
                start += tensor.numel()

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Add up the gradients of all processes; a parameter that one of them did not use counts as zero there."""
        if self.size == 1:
            return
        used = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        dist.all_reduce(used)
        shared = [p for p, count in zip(parameters, used.tolist(), strict=True) if count]
        for parameter in shared:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.sum([p.grad for p in shared])

    def all_values(self, value: Any) -> list[Any]:
        """``value`` of every process, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.size > 1:
            dist.barrier()


SINGLE_PROCESS = Group()


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Runs of one dtype and at most :data:`BUCKET` numbers; a larger tensor is a run of its own."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or sum(t.numel() for t in bucket) + tensor.numel() > BUCKET):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
