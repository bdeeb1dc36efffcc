"""The stage `towers`: the lake's own similarity models, trained once on its images and then left as they are.

A corpus that grows does not train them again, or every vector would have to be computed again. Stages that read the towers
compare the digest of their weights. Cost: see :mod:`mmret.towers.train`.
"""

from __future__ import annotations

import pyarrow as pa

from mmret.lake import Facts, Lake
from mmret.schemas import TOWERS
from mmret.settings import Profile
from mmret.towers.corpus import sample_images
from mmret.towers.lake_folder import lake_towers
from mmret.towers.train import train


def train_towers(lake: Lake, profile: Profile, inputs: str) -> Facts:
    """Train the profile's towers, if it has any, into ``<lake>/towers`` and write the table ``towers``.

    The table has one row per signal with the band proposed for it; the notes have the rest of ``towers.json``. Towers that
    were trained from the same ``inputs`` are not trained again. Raises UserError for fewer than two pictures.

    >>> train_towers(lake, profile, fingerprint_now(lake, profile, "towers"))
    """
    if profile.towers is None:
        return lake.write("towers", "all", TOWERS.empty_table(), inputs)
    with lake_towers(lake.storage) as folder:
        record = train(sample_images(lake, profile.towers.max_images), profile.towers, folder, inputs)
    return lake.write("towers", "all", pa.Table.from_pylist(record.pop("rows"), TOWERS), inputs, **record)
