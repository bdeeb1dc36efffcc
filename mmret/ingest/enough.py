"""Stops a run whose lake holds too few pictures for a pair, with the commonest reason why the others were not taken."""

from __future__ import annotations

from mmret.errors import UserError
from mmret.ingest.first_rows import ASK_A_MODEL
from mmret.lake import Lake

FEWEST = 3
"""A query, a target, and a hard negative."""


def check_enough(lake: Lake) -> None:
    """Raise UserError where ``lake`` has sealed shards but fewer than ``FEWEST`` images, those of imports included.

    Call it once the images of every shard are there.
    """
    images = sum(facts.rows for p in lake.partitions("images") if (facts := lake.facts("images", p)))
    if images >= FEWEST or not lake.shards():
        return
    rejects = lake.read("rejects", columns=["path", "reason", "detail"])
    counts = sorted(((c["counts"], c["values"]) for c in rejects["reason"].value_counts().to_pylist()), reverse=True)
    why = ""
    if counts:
        count, reason = counts[0]
        first = next(row for row in rejects.to_pylist() if row["reason"] == reason)
        why = (
            f"; of {rejects.num_rows} rows that could not be taken {count} have the reason {reason.replace('_', ' ')}, "
            f"beginning with {first['path']} ({first['detail']}){_table_not_read(lake)}"
        )
    advice = (
        "write captions.csv with the columns image and caption, or a text beside each picture (a.txt for a.jpg), "
        f"{ASK_A_MODEL}, and run again"
        if counts and counts[0][1] == "no_caption"
        else "mend them or add more pictures with --images, and run again"
    )
    raise UserError(f"the lake has {images} usable images, and pairs need {FEWEST} at the very least{why}: {advice}")


def _table_not_read(lake: Lake) -> str:
    """The first table among the sources that was not taken for one of captions: then that is why captions are missing."""
    for remark in lake.read("remarks").to_pylist():
        if remark["remark"] == "not_a_manifest":
            return f"; {remark['path']} {remark['detail']}"
    return ""
