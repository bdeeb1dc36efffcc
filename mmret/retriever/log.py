"""The training log as a Parquet table in the checkpoint's folder, and a picture of it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

LOG = "training_log.parquet"

SCHEMA = pa.schema([
    ("step", pa.int64()),               # steps done
    ("loss", pa.float64()),             # mean since the last row
    ("learning_rate", pa.float64()),    # of the last step
    ("gradient_norm", pa.float64()),    # before clipping, mean since the last row
    ("seconds", pa.float64()),          # of training, over all resumptions
    ("samples_per_second", pa.float64()),
])


def write_log(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows), SCHEMA), folder / LOG)


def read_log(path: Path) -> pa.Table:
    """The log in a checkpoint's folder, or the Parquet file itself."""
    return pq.read_table(path / LOG if path.is_dir() else path)


def plot_log(path: Path) -> bytes:
    """Loss and learning rate over steps of the log at ``path`` (a checkpoint's folder or the file), as a PNG."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    log = read_log(path).to_pydict()
    figure = Figure(figsize=(7, 3.2), dpi=110, layout="constrained")
    left = figure.add_subplot()
    left.plot(log["step"], log["loss"], color="tab:blue", linewidth=1.5)
    left.set(xlabel="step", ylabel="InfoNCE loss", ylim=(0, None))
    left.spines[["top"]].set_visible(False)
    right = left.twinx()
    right.plot(log["step"], log["learning_rate"], color="tab:gray", linestyle="--", linewidth=1)
    right.set(ylabel="learning rate", ylim=(0, None))
    right.spines[["top"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
