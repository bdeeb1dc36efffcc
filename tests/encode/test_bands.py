"""Invariants: a proposed band keeps known near-duplicates out and gives the median image ten to a hundred neighbours;
the report's numbers add up to the neighbours it was made from; its picture is a small PNG."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image

from mmret.encode.bands import propose
from mmret.errors import UserError
from mmret.mine.band_report import plot, report
from mmret.schemas import NEIGHBOURS, SIGNALS
from mmret.settings import MineSettings
from tests.mine.corpora import BANDS, clustered, image_ids, mined, shards


def spread_out(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((40, 64))[rng.integers(40, size=count)] + 0.7 * rng.standard_normal((count, 64))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def in_band(vectors: np.ndarray, band) -> np.ndarray:
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -1)
    return ((scores > band.low) & (scores < band.high)).sum(1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("duplicates", [None, np.linspace(0.9, 1.0, 200)])
def test_the_median_image_gets_neighbours_and_near_duplicates_stay_out(dtype, duplicates):
    vectors = spread_out(1500)
    band = propose(vectors.astype(dtype), duplicates)
    assert 10 <= np.median(in_band(vectors, band)) <= 100
    assert propose(vectors.astype(dtype), duplicates) == band
    if duplicates is not None:
        assert (duplicates < band.high).mean() <= 0.06
    apart = np.random.default_rng(1).integers(1500, size=(2, 5000))
    assert ((vectors[apart[0]] * vectors[apart[1]]).sum(1) > band.low).mean() < 0.1


def unrelated(count: int, width: int) -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((count, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def kinds(spread: float, count: int = 1600) -> np.ndarray:
    """Images of 40 kinds, each ``spread`` from its kind's centre."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 64))[rng.integers(40, size=count)] + spread * rng.standard_normal((count, 64))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def three_deviations_above_random_pairs(vectors: np.ndarray) -> float:
    scores = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    middle, under = np.quantile(scores, [0.5, 0.16])
    return middle + 3 * (middle - under)


def test_low_is_where_the_median_image_has_30_neighbours_where_random_pairs_stay_below_that():
    vectors = kinds(0.3)
    band = propose(vectors)
    assert band.low > three_deviations_above_random_pairs(vectors) + 0.1
    assert 28 <= np.median(in_band(vectors, band)) <= 30
    assert 18.5 <= np.median(in_band(vectors, propose(vectors, neighbours=20))) <= 20
    crowded = propose(vectors, np.full(9, 0.93), neighbours=15)  # near-duplicates are counted out, however many there are
    assert ((vectors @ vectors.T) > 0.93).sum(1).mean() > 5
    assert 13 <= np.median(in_band(vectors, crowded)) <= 15


def test_low_is_raised_to_three_deviations_above_random_pairs_where_30_neighbours_would_lie_among_them():
    vectors = kinds(1.25)
    band = propose(vectors)
    assert band.low == pytest.approx(three_deviations_above_random_pairs(vectors), abs=0.01)
    assert 10 < np.median(in_band(vectors, band)) < 29


def test_low_is_never_raised_so_far_that_fewer_than_ten_neighbours_are_left():
    vectors = unrelated(1000, 16)
    band = propose(vectors)
    assert band.low < three_deviations_above_random_pairs(vectors) - 0.1
    assert np.median(in_band(vectors, band)) == pytest.approx(9.5, abs=0.6)
    small = propose(unrelated(40, 16))  # a tenth of the images
    assert np.median(in_band(unrelated(40, 16), small)) == pytest.approx(3.5, abs=0.6)


def test_high_is_where_one_image_in_fifty_has_a_nearer_one_or_where_one_known_duplicate_in_twenty_lies_below():
    vectors = kinds(0.5)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -1)
    assert (scores.max(1) >= propose(vectors).high).mean() == pytest.approx(0.02, abs=0.003)
    known = np.linspace(0.8, 0.9, 101)
    assert propose(vectors, known).high == pytest.approx(0.805, abs=1e-4)
    assert propose(vectors, known[:0]) == propose(vectors)
    assert propose(vectors, np.ones(1)).high == 0.998, "copies to the last bit still leave a width that float16 can tell"


def test_a_sample_stands_for_a_large_corpus_and_its_seed_changes_little(monkeypatch):
    vectors = kinds(0.5)
    whole = propose(vectors)
    monkeypatch.setattr("mmret.encode.bands.QUERIES", 300)
    first, other = propose(vectors, seed=1), propose(vectors, seed=2)
    assert first != other and propose(vectors, seed=1) == first
    assert max(abs(first.low - whole.low), abs(first.high - whole.high)) < 0.05


@pytest.mark.parametrize("vectors", [np.eye(5), np.ones((20, 4)) / 2, spread_out(3)])
def test_a_corpus_without_structure_still_gets_a_band(vectors):
    band = propose(vectors)
    assert -1 <= band.low < band.high <= 1


def test_what_no_band_can_be_proposed_from_is_refused():
    with pytest.raises(UserError, match="set low and high"):
        propose(spread_out(2))
    with pytest.raises(UserError, match="not finite"):
        propose(np.full((9, 4), np.nan))


def test_a_report_adds_up_and_makes_a_small_picture():
    ids, vectors = image_ids(300), {s: clustered(300, 24, at) for at, s in enumerate(SIGNALS)}
    vectors["dino_image"][:150] = vectors["clip_image"][:150]
    parts, options = shards(ids, vectors, [120]), MineSettings(k=8)
    found = mined(parts, options)
    tables = [found.filter(pc.is_in(found["query_id"], value_set=pa.array(p.ids))) for p in parts]
    numbers = report(tables, BANDS, 300, 8)
    assert json.loads(json.dumps(numbers)) == numbers
    rows = found.to_pylist()
    for signal, of in numbers["signals"].items():
        mine = [r for r in rows if r["signal"] == signal]
        assert sum(of["counts"]) == len(mine) == of["in_band"] + of["above_band"]
        having = {r["query_id"] for r in mine if not r["above_band"]}
        assert of["images_with_neighbours"] == pytest.approx(len(having) / 300)
        assert of["mean"] == pytest.approx(of["in_band"] / 300) and 0 <= of["median"] <= 8
    pairs = {}
    for r in rows:
        if not r["above_band"]:
            pairs.setdefault((r["query_id"], r["target_id"]), set()).add(r["signal"])
    assert numbers["pairs"] == len(pairs) == sum(numbers["overlap"].values())
    both = sum(signals == {"clip_image", "dino_image"} for signals in pairs.values())
    assert numbers["overlap"]["clip_image+dino_image"] == both > 0
    picture = plot(numbers)
    assert len(picture) < 60_000 and Image.open(io.BytesIO(picture)).format == "PNG"


def test_a_report_of_nothing_is_drawn_too():
    numbers = report([NEIGHBOURS.empty_table()], {"caption": BANDS["caption"]}, 0, 5)
    assert numbers["pairs"] == 0 and list(numbers["overlap"]) == ["caption"]
    assert plot(numbers).startswith(b"\x89PNG")
