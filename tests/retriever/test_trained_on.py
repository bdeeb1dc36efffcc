"""What a checkpoint was trained on is found again shard by shard, and is what training itself would choose."""

import numpy as np
import pytest

from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.retriever.train.data import TrainingSet
from mmret.retriever.train.data_state import trained_on
from mmret.retriever.train.rows import training_rows
from mmret.settings import LicenceSettings, Recipe


@pytest.mark.parametrize(
    "changes", [{}, {"pairs": 40, "seed": 3}, {"signals": ["caption"]}, {"signals": ["clip_image"], "pairs": 7}]
)
def test_the_keys_are_those_of_the_training_set(small_lake, changes, monkeypatch):
    lake = Lake(small_lake[0])
    profile = resolve(lake)[0]
    recipe = Recipe.model_validate(profile.recipes["demo"].model_dump() | changes)
    record = lake.read("checkpoints", "demo")
    row = record.to_pylist()[0] | {"settings": recipe.model_dump_json()}
    read = Lake.read
    recorded = record.from_pylist([row], record.schema)
    monkeypatch.setattr(
        Lake, "read", lambda self, table, *a, **k: recorded if table == "checkpoints" else read(self, table, *a, **k)
    )
    expected = TrainingSet(training_rows(lake, recipe, LicenceSettings(), profile.evaluate), recipe).keys
    found = trained_on(lake, "demo")
    assert len(lake.partitions("triplets")) > 1 and len(expected)
    np.testing.assert_array_equal(found.keys, np.sort(expected))
    assert len(found.rows()) == len(expected)
