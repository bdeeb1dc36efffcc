"""Robustness by hand: a spread is what some wording finds and not every; each figure is its definition, of known ranks."""

from __future__ import annotations

import numpy as np
import pytest

from mmret.benchmarks.robustness import paraphrase_spread, spread_of_ranks
from mmret.errors import UserError


class Points:
    """A model of pictures and texts that are points on a circle, in degrees; a composed query is the picture turned by the text."""

    dim = 2

    def __init__(self):
        self.asked: list[tuple[str, str]] = []

    def encode(self, images=None, texts=None, batch_size=64):
        turns = [float(text.split()[-1]) for text in texts] if texts is not None else [0.0] * len(images)
        starts = [float(image) for image in images] if images is not None else [0.0] * len(texts)
        self.asked += list(zip(images or [], texts or [], strict=False))
        angles = np.radians(np.add(starts, turns))
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


IDS = [str(degrees) for degrees in range(0, 360, 10)]
"""A gallery of 36 pictures, one each ten degrees."""


def load(ids):
    return {i: i for i in ids}


def vectors(model: Points) -> np.ndarray:
    return model.encode(images=IDS)


def test_the_spread_of_known_ranks_is_what_some_wording_finds_less_what_every_wording_finds():
    found = spread_of_ranks([(1, 10, 3), (3, 11, 3), (50, 60), (11, 12)])
    assert found == {"best": 50.0, "worst": 25.0, "mean": pytest.approx(100 * (1 + 2 / 3) / 4), "spread": 25.0}
    assert spread_of_ranks([(1, 2), (3, 4)], k=2) == {"best": 50.0, "worst": 50.0, "mean": 50.0, "spread": 0.0}


@pytest.mark.parametrize("ranks", [[], [(1,)], [(1, 2), (3,)]])
def test_a_spread_without_queries_or_of_a_single_wording_is_refused_and_not_zero(ranks):
    with pytest.raises(UserError, match="two wordings or more"):
        spread_of_ranks(ranks)


def test_paraphrase_spread_asks_each_wording_once_without_the_reference_and_counts_every_target():
    model = Points()
    queries = [
        ("0", ["turn by 50", "turn it 90"], {"50"}),  # ranks 1 and 9: 80 to 130 but 90 itself are as near or nearer than 50
        ("100", ["by 0", "go 10", "go by 20"], {"120", "110"}),
        ("200", ["go 10", "go 170"], {"210"}),
    ]
    found = paraphrase_spread(model, IDS, vectors(model), queries, load)
    assert found == {
        "best": 100.0,
        "worst": pytest.approx(200 / 3),
        "mean": pytest.approx(100 * 2.5 / 3),
        "spread": pytest.approx(100 / 3),
    }
    assert sorted(model.asked) == sorted((reference, text) for reference, texts, _ in queries for text in texts)
    assert paraphrase_spread(model, IDS, vectors(model), queries, load, k=1)["best"] == 100.0
