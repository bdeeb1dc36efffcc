"""The training log: a Parquet table and TensorBoard events in the checkpoint's folder, and a picture of it."""

from __future__ import annotations

import io
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from mmret.tasks import TASK_NAMES

LOG = "training_log.parquet"
EVENTS = "tensorboard"
"""Folder of TensorBoard's event files, inside the checkpoint's; while a run lasts, inside its working folder."""

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),  # steps done
        ("loss", pa.float64()),  # mean since the last row
        ("learning_rate", pa.float64()),  # of the last step
        ("gradient_norm", pa.float64()),  # before clipping, mean since the last row
        ("seconds", pa.float64()),  # of training, over all resumptions, without measuring
        ("samples_per_second", pa.float64()),
        ("memory_bytes", pa.int64()),  # peak so far: of the GPU where there is one, else of the process
        ("recall_1", pa.float64()),  # percent on the held-out slice; null in a row that did not measure
        ("recall_5", pa.float64()),
        ("recall_10", pa.float64()),
        *((f"loss_{task}", pa.float64()) for task in TASK_NAMES),  # of a mixture's steps of that task since the last row
        ("masked", pa.float64()),  # share of the negatives that mask_margin left out, mean since the last row; null without it
        ("agreement", pa.float64()),  # divergence between the texts of a triplet, in nats, before its weight; null without it
    ]
)
TAGS = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "gradient_norm": "train/gradient_norm",
    "samples_per_second": "train/samples_per_second",
    "memory_bytes": "train/memory_bytes",
    "recall_1": "held_out/recall_1",
    "recall_5": "held_out/recall_5",
    "recall_10": "held_out/recall_10",
    **{f"loss_{task}": f"train/loss_{task}" for task in TASK_NAMES},
    "masked": "train/masked",
    "agreement": "train/agreement",
}
"""Columns as TensorBoard names them."""


class Events:
    """TensorBoard scalars into a new file of ``folder``, on disk when :meth:`write` returns (tensorboardX's own
    SummaryWriter hands them to a thread). What a killed run wrote after ``step`` is purged by TensorBoard."""

    def __init__(self, folder: Path, step: int = 0):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self.writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.{step}")
        if step:
            self._add(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, row: dict[str, Any]) -> None:
        """Add a row of the log; null columns are left out."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for column, tag in TAGS.items():
            if row.get(column) is not None:
                self._add(Event(step=row["step"], summary=scalar(tag, row[column])))
        self.writer.flush()

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self.writer.write_event(event)

    def close(self) -> None:
        self.writer.close()


def write_log(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Both forms of the whole log into a checkpoint's folder."""
    pq.write_table(pa.Table.from_pylist(list(rows), SCHEMA), folder / LOG)
    events = Events(folder / EVENTS)
    for row in rows:
        events.write(row)
    events.close()


def read_log(path: Path) -> pa.Table:
    """The log in a checkpoint's folder, or the Parquet file itself; columns that an older log lacks are null."""
    table = pq.read_table(path / LOG if path.is_dir() else path, partitioning=None)
    return pa.table(
        {f.name: table[f.name] if f.name in table.column_names else pa.nulls(len(table), f.type) for f in SCHEMA}, SCHEMA
    )


def log_line(row: dict[str, Any]) -> str:
    """A row of the training log in one line, for people who watch."""
    recall = "".join(f", held-out R@{k} {row[f'recall_{k}']:.1f}" for k in (1, 5, 10) if row.get(f"recall_{k}") is not None)
    losses = {task: row.get(f"loss_{task}") for task in TASK_NAMES}
    tasks = "; ".join(f"{task} {loss:.3f}" for task, loss in losses.items() if loss is not None)
    return (
        f"step {row['step']}: loss {row['loss']:.3f}{tasks and f' ({tasks})'}, learning rate {row['learning_rate']:.2e}, "
        f"gradient norm {row['gradient_norm']:.2f}, {row['samples_per_second']:,.0f} samples/s, "
        f"{row['memory_bytes'] / 2**30:.1f} GiB{recall}"
    )


def peak_memory() -> int:
    """Bytes: the most this process's GPU allocated so far, or without one the most the process had resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def plot_log(path: Path) -> bytes:
    """Loss over steps of the log at ``path`` (a checkpoint's folder or the file), as a PNG of some 30 kB; beside it the
    recall on the held-out slice where it was measured, else the learning rate."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    log = read_log(path)
    measured = log.filter(pc.is_valid(log["recall_10"]))
    figure = Figure(figsize=(7, 3.2), dpi=110, layout="constrained")
    left = figure.add_subplot()
    left.plot(log["step"], log["loss"], color="tab:blue", linewidth=1.5, label="loss")
    left.set(xlabel="step", ylabel="InfoNCE loss", ylim=(0, None))
    left.spines[["top"]].set_visible(False)
    right = left.twinx()
    right.spines[["top"]].set_visible(False)
    if len(measured):
        for k, style in ((1, "-"), (10, "--")):
            right.plot(
                measured["step"],
                measured[f"recall_{k}"],
                color="tab:orange",
                linestyle=style,
                marker="o",
                markersize=3,
                linewidth=1,
                label=f"R@{k}",
            )
        right.set(ylabel="held-out recall, percent", ylim=(0, 100))
    else:
        right.plot(log["step"], log["learning_rate"], color="tab:gray", linestyle="--", linewidth=1, label="learning rate")
        right.set(ylabel="learning rate", ylim=(0, None))
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
