"""The towers of a lake as a pinned model: trained once on the images of the day, then named by the digest of their weights."""

from __future__ import annotations

import pyarrow as pa

from mmret.lake import Facts, Lake
from mmret.schemas import TOWERS
from mmret.settings import Profile
from mmret.towers.train import train_towers


def pin_towers(lake: Lake, profile: Profile, inputs: str) -> Facts:
    """Train the profile's towers, if it has any, and write the ``towers`` table: one row per signal with its proposed band."""
    if profile.towers is None:
        return lake.write("towers", "all", TOWERS.empty_table(), inputs)
    made = train_towers(lake, profile.towers, inputs)
    return lake.write("towers", "all", pa.Table.from_pylist(made.pop("rows"), TOWERS), inputs, **made)
