"""Invariants of what a shard's own lists keep while earlier shards pass, of what a matrix takes for a vector, and of the scores and
bands that a lake gives out."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from mmret.errors import UserError
from mmret.ingest.stage import ingest_shard, seal_corpus
from mmret.lake import Lake
from mmret.mine import lake_bands
from mmret.mine.candidates import _ShardLists, _SortedShard
from mmret.mine.lake_bands import _copies, lake_report, mined_bands, propose_band
from mmret.mine.merge import neighbours
from mmret.mine.operands import (
    GROUP,
    NORM_TOLERANCE,
    Matrix,
    _float_block,
    _hadamard,
    _int8_block,
    _padded,
    exact_scores,
    exact_scores_of_few,
    rotated,
)
from mmret.mine.scores import pair_scores
from mmret.schemas import CANDIDATES, SIGNALS
from mmret.settings import BandSettings, MineSettings, load_profile
from tests.mine.corpora import BAND, clustered, image_ids, shards
from tests.mine.lakes import add_shard

CPU = torch.device("cpu")


def test_floors_rise_to_the_last_score_of_a_full_list_and_later_shards_cannot_push_what_is_better_out():
    ids, vectors = image_ids(300), {"caption": clustered(300, 12, 0)}
    first, *later = shards(ids, vectors, [60, 140, 220])
    settings = MineSettings(k=3, tile=64, signals=("caption",))
    lists = _ShardLists(_SortedShard(first, settings), "caption", 3, BAND)
    lists.compare_within()
    floors = [lists.floor.copy()]
    for shard in later:
        lists.compare_with(_SortedShard(shard, settings))
        lists._cut_lists()
        floors.append(lists.floor.copy())
        rank = np.bincount(lists.rows[lists.scores < np.float32(BAND.high)], minlength=60)
        assert rank.max() <= 3 and (np.diff(lists.rows) >= 0).all()
        for row in np.flatnonzero(rank == 3):
            own = lists.scores[(lists.rows == row) & (lists.scores < np.float32(BAND.high))]
            assert lists.floor[row] == own.min() and (np.diff(own) <= 0).all()
        full_above = np.bincount(lists.rows[lists.scores >= np.float32(BAND.high)], minlength=60) == 3
        assert (lists.above_floor[full_above] >= np.float32(BAND.high)).all()
    assert all((b >= a).all() for a, b in zip(floors[:-1], floors[1:], strict=True)) and (floors[-1] > floors[0]).any()
    assert (floors[-1][rank < 3] == np.float32(BAND.low)).all(), "a list that is not full takes all"


def test_candidates_come_by_query_best_first_then_the_smaller_id():
    targets, scores = ["b", "a", "c", "d"], [0.7, 0.7, 0.9, 0.95]
    same = {"query_shard": ["s"] * 4, "query_id": ["q"] * 4, "signal": ["caption"] * 4}
    table = pa.table({**same, "target_id": targets, "score": scores, "above_band": [x > 0.93 for x in scores]}).cast(CANDIDATES)
    found = neighbours([table], 2).to_pylist()
    assert [(r["target_id"], r["rank"]) for r in found] == [("c", 0), ("a", 1), ("d", None)]
    assert [r["above_band"] for r in found] == [False, False, True]


def test_a_merge_with_little_room_to_wait_is_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    parts = [
        pa.Table.from_pylist(
            [{"query_shard": "s", "query_id": f"q{rng.integers(4)}", "signal": SIGNALS[rng.integers(3)], "target_id": f"{at}-{n}",
              "score": float(x := rng.integers(60, 99) / 100), "above_band": x > 0.9} for n in range(12)],
            CANDIDATES,
        )
        for at in range(8)
    ]  # fmt: skip
    whole = neighbours(parts, 3)
    monkeypatch.setattr("mmret.mine.merge.ROWS_WAITING", 5)
    assert neighbours(parts, 3) == whole


# -- vectors -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length, fits", [(1.0, True), (1.009, True), (0.991, True), (1.02, False), (0.98, False)])
def test_a_vector_may_be_a_hundredth_off_its_length_and_no_more(length, fits):
    vectors = np.array([[length, 0, 0, 0]], np.float16)
    if fits:
        Matrix(vectors, ["a"], "caption", 64, CPU, int8=False)
    else:
        with pytest.raises(UserError, match="caption: the vector of image a has length"):
            Matrix(vectors, ["a"], "caption", 64, CPU, int8=False)
    assert NORM_TOLERANCE == 0.01


def test_of_several_bad_vectors_the_first_is_named_with_its_own_problem_and_the_others_counted():
    vectors = clustered(70, 4, 0)
    vectors[41], vectors[53], vectors[60] = [1, 1, 0, 0], [0, 0, 0, 0], [np.nan, 0, 0, 1]
    names = image_ids(70)
    with pytest.raises(UserError, match=rf"image {names[41]} has length 1.414, not 1 \(3 such rows in its tile\)"):
        Matrix(vectors, names, "caption", 70, CPU, int8=False)


def test_vectors_of_another_kind_or_number_are_refused():
    good = clustered(4, 8, 0)
    wrong = {"expected float16 .* float32": good.astype(np.float32), "expected float16": good.ravel(), "3 vectors for 4": good[:3]}
    for said, vectors in wrong.items():
        with pytest.raises(UserError, match=said):
            Matrix(vectors, list("abcd"), "caption", 64, CPU)


def test_blocks_cover_the_rows_in_order_and_sketches_are_padded_to_whole_groups_of_zeros():
    vectors = clustered(150, 20, 0)
    for int8 in (False, True):
        matrix = Matrix(vectors, image_ids(150), "caption", 64, CPU, int8)
        assert [(b.start, b.stop) for b in matrix.blocks] == [(0, 64), (64, 128), (128, 150)] and (matrix.rows, matrix.width) == (
            150,
            20,
        )
        last = matrix.blocks[-1]
        assert last.rows.shape[0] == GROUP and torch.equal(last.rows.T, last.columns) and not last.rows[22:].any()
        assert len(last.error) == 22 and torch.equal(last.vectors, torch.from_numpy(vectors[128:]))
    assert _padded(torch.ones(GROUP, 2)).shape == (GROUP, 2) and _padded(torch.ones(GROUP + 1, 2)).shape == (2 * GROUP, 2)


@pytest.mark.parametrize("width", [5, 64, 100, 128, 192])
def test_the_rotation_keeps_inner_products_and_spreads_an_outlier(width):
    x = torch.from_numpy(clustered(30, width, 0)).float()
    x[0] = torch.eye(width)[0]
    turned = rotated(x)
    assert turned.shape == (30, -(-width // 64) * 64)
    torch.testing.assert_close(turned @ turned.T, x @ x.T, atol=1e-5, rtol=0)
    assert turned[0].abs().max() < 0.5
    assert np.allclose(_hadamard(8) @ _hadamard(8).T, np.eye(8))


def test_an_error_bound_has_room_for_rounding_and_grows_with_what_was_rounded_away():
    wide = torch.from_numpy(clustered(40, 64, 0)).float()
    rows, _, unit, error = _int8_block(wide)
    assert rows.dtype == torch.int8 and rows.abs().max() == 127
    lost = (rotated(wide) - rows[:40].float() * unit).norm(dim=1).numpy()
    assert (error > 1.01 * lost).all() and (np.argsort(error) == np.argsort(lost)).all() and (error < 1.6 * lost + 3e-4).all()
    error = _float_block(wide)[3]
    assert (error > 64 * 2.0**-24 / 2).all() and error.max() < 1e-5


def test_scores_of_a_signal_that_some_shards_lack_are_null_where_a_side_has_none():
    vectors = np.eye(4, dtype=np.float16)
    one, two = shards(["a", "b", "c"], {"caption": vectors[:3], "clip_image": vectors[:3]}, [2])
    two.vectors.pop("clip_image")
    found = pair_scores(pa.table({"query_id": ["a", "a", "c"], "target_id": ["a", "c", "c"]}), [one, two])
    assert found["caption_score"].to_pylist() == [1, 0, 1] and found["clip_image_score"].to_pylist() == [1, None, None]
    assert found["dino_image_score"].null_count == 3
    with pytest.raises(UserError, match="image z has no vectors"):
        pair_scores(pa.table({"query_id": ["a"], "target_id": ["z"]}), [one, two])


# -- bands of a lake -----------------------------------------------------------------------------------------------------------


def test_a_band_of_captions_is_proposed_with_equal_texts_as_near_duplicates_and_of_pictures_with_their_copies(
    tmp_path, monkeypatch
):
    lake = Lake(tmp_path)
    vectors = {s: clustered(60, 16, at) for at, s in enumerate(SIGNALS)}
    add_shard(lake, "shard-00000", image_ids(60), vectors)
    add_shard(lake, "shard-00001", ["z"], {s: clustered(1, 16, 9) for s in SIGNALS})
    asked = []
    monkeypatch.setattr(lake_bands, "propose", lambda v, d: asked.append((len(v), d.tolist())) or BandSettings())
    monkeypatch.setattr(lake_bands, "_copies", lambda lake, shard, ids, encoder: np.array([len(ids), encoder], np.float32))
    propose_band(lake, "caption", lambda signal: 1 / 0)
    propose_band(lake, "dino_image", {"dino_image": 7}.get)
    assert asked == [(60, [1.0]), (60, [60.0, 7.0])]


class BrightnessEncoder:
    """Encodes a picture as its mean brightness and one coordinate more, of unit length."""

    batch_size = 64

    def __init__(self):
        self.batches = []

    def preprocess(self, data: bytes) -> torch.Tensor:
        with Image.open(io.BytesIO(data)) as picture:
            return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)

    def encode_images(self, pixels: torch.Tensor) -> np.ndarray:
        self.batches.append(pixels.float())
        light = pixels.float().mean((1, 2, 3)).numpy() / 255
        return np.stack([light, np.sqrt(1 - light**2)], 1).astype(np.float32)


def test_near_duplicates_are_measured_on_a_seeded_sample_of_pictures_each_against_its_own_copy(tmp_path, monkeypatch):
    lake = Lake(tmp_path / "lake")
    settings = load_profile("demo", {"corpus.sources": ["shapes:80?seed=3"], "corpus.shard_size": 40})
    seal_corpus(lake, settings, "x")
    ingest_shard(lake, "shard-00000", settings.ingest, "x")
    ids = lake.read("images", "shard-00000")["image_id"].to_pylist()
    assert len(ids) == 40
    encoder = BrightnessEncoder()
    scores = _copies(lake, "shard-00000", ids, encoder)
    assert scores.shape == (40,) and (scores > 0.999).all() and (scores <= 1 + 1e-6).all() and (scores < 1).any()
    copies, pictures = encoder.batches[0], encoder.batches[1]
    assert [len(b) for b in encoder.batches] == [32, 32, 8, 8], "batches of 32 at most"
    assert (copies - pictures).abs().max() > 1 and (copies - pictures).abs().mean() < 20, "a slightly cropped copy, not the picture"
    assert (_copies(lake, "shard-00000", ids[::-1], BrightnessEncoder()) == scores).all()

    monkeypatch.setattr(lake_bands, "COPIES", 7)
    sample = BrightnessEncoder()
    assert len(_copies(lake, "shard-00000", ids, sample)) == 7
    chosen = {bytes(p.to(torch.uint8).numpy().tobytes()) for p in sample.batches[1]}
    assert chosen <= {bytes(p.to(torch.uint8).numpy().tobytes()) for b in encoder.batches[1::2] for p in b} and len(chosen) == 7


def test_scores_of_no_pairs_are_no_scores():
    rows = torch.eye(3).half()
    none = np.zeros(0, np.int64)
    for scores in (exact_scores, exact_scores_of_few):
        assert scores(rows, rows, none, none).shape == (0,) and scores(rows, rows, none, none).dtype == np.float32


def test_what_was_not_mined_yet_says_so(tmp_path):
    lake = Lake(tmp_path)
    add_shard(lake, "shard-00000", ["a", "b"], {"caption": clustered(2, 8, 0)})
    with pytest.raises(UserError, match="shard-00000 has no candidates yet"):
        mined_bands(lake, "shard-00000")
    with pytest.raises(UserError, match="no neighbours yet"):
        lake_report(lake, MineSettings())
    lake.write("candidates", "shard-00000", CANDIDATES.empty_table(), "x", bands={"caption": [0.1, 0.2]})
    assert mined_bands(lake, "shard-00000") == {"caption": BandSettings(low=0.1, high=0.2)}
    with pytest.raises(UserError, match="no neighbours yet"):
        lake_report(lake, MineSettings())
