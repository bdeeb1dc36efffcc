"""Pins of the quality of the texts: what each figure is, on cases whose answer is known, and that a lake's figures reach the
checks, the picture and the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from mmret.annotate.quality import metrics
from mmret.annotate.quality.measure import measure_shard, reading_signal
from mmret.annotate.quality.picture import quality_picture
from mmret.encode.protocol import load_encoder
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.schemas import TRIPLETS
from mmret.settings import EncoderSettings, QualitySettings

SHARD = "shard-00000"


def test_distinct_n_is_different_n_grams_over_all() -> None:
    texts = [metrics.tokens("Make it red."), metrics.tokens("make it blue")]
    assert metrics.distinct_n(texts, 1) == 4 / 6 and metrics.distinct_n(texts, 2) == 3 / 4 and metrics.distinct_n(texts, 4) is None
    assert metrics.repeat_share(["a", "b", "a", "c"]) == 0.5 and metrics.repeat_share([]) is None


def test_histograms_count_every_text_and_the_last_bin_is_open() -> None:
    found = metrics.length_histogram([1, 3, 3, 900], (0, 2, 4))
    assert found["counts"] == [1, 2, 1] and found["p50"] == 3
    assert metrics.length_histogram([], (0, 2))["counts"] == [0, 0]


@pytest.mark.parametrize(
    "text, leaks",
    [
        ("the white mug with steam", True),
        ("make it blue instead of white", False),  # an edit may name what it changes
        ("a blue one on the table", False),
        ("without the steam", False),
    ],
)
def test_a_leak_names_what_only_the_source_has_and_does_not_change_it(text: str, leaks: bool) -> None:
    source, target = "A white mug with steam on a table", "A blue mug on a table"
    assert metrics.leakage([text], [source], [target], "English") == float(leaks)


def test_leakage_is_not_measured_where_it_cannot_be() -> None:
    assert metrics.leakage(["x"], ["a cat"], ["a dog"], "German") is None
    assert metrics.leakage(["x"], [""], ["a dog"], "English") is None


def _unit(*rows: list[float]) -> np.ndarray:
    values = np.array(rows, np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_a_target_is_found_only_ahead_of_gallery_and_negatives_and_ties_do_not_count() -> None:
    queries, targets = _unit([1, 0], [1, 0], [1, 0], [1, 0]), _unit([1, 0.2], [1, 0.2], [1, 0.2], [1, 0.2])
    gallery = _unit([1, 0.1], [0, 1])
    excluded = np.array([[False, False], [True, False], [True, False], [True, True]])
    negatives = [np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32), _unit([1, 0.2]), _unit([1, 0.3])]
    assert metrics.hits_at_1(queries, targets, gallery, excluded, negatives).tolist() == [False, True, False, True]
    nobody = metrics.hits_at_1(queries, targets, np.zeros((0, 2), np.float32), np.zeros((4, 0), bool), negatives)
    assert nobody.tolist() == [True, True, False, True]


@pytest.fixture(scope="module")
def lake(small_lake: tuple[Path, dict], tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return Lake(shutil.copytree(small_lake[0], tmp_path_factory.mktemp("quality") / "lake"))


def _told(lake: Lake, caption_of: str) -> pa.Table:
    """The shard's triplets with the caption of the target or of the query as their texts."""
    captions = dict(zip(*lake.read("images", columns=["image_id", "caption"]).to_pydict().values(), strict=True))
    rows = lake.read("triplets", SHARD).to_pylist()
    return pa.Table.from_pylist([r | {"texts": [captions[r[caption_of]]] * 3} for r in rows], TRIPLETS)


def test_a_text_that_retells_its_target_is_found_by_the_text_alone(lake: Lake) -> None:
    profile, _ = resolve(lake)
    told = measure_shard(lake, SHARD, _told(lake, "target_id"), profile)
    other = measure_shard(lake, SHARD, _told(lake, "query_id"), profile)
    assert told["redundancy"]["text_alone"] > 0.4 > other["redundancy"]["text_alone"]
    assert told["redundancy"]["image_alone"] == other["redundancy"]["image_alone"]
    assert other["leakage"] > told["leakage"] == 0
    shares = told["redundancy"]
    assert shares["either"] + shares["neither"] == pytest.approx(1) and shares["either"] >= shares["text_alone"]


def test_vectors_of_another_model_than_the_encoder_s_are_not_compared(lake: Lake) -> None:
    profile, _ = resolve(lake)
    rows = lake.read("triplets", SHARD)
    words = load_encoder(profile.encoders["caption"], "caption", lake.root)
    assert profile.encoders["caption"].compares_words and reading_signal(profile) == "clip_image"
    assert measure_shard(lake, SHARD, rows, profile)["redundancy"] is not None
    assert measure_shard(lake, SHARD, rows, profile, lambda: words)["redundancy"] is None
    captions = profile.encoders | {"caption": EncoderSettings(kind="clip", model="towers/clip")}
    assert reading_signal(profile.model_copy(update={"encoders": captions})) == "caption"


def test_a_run_notes_the_same_figures_that_the_command_measures(lake: Lake) -> None:
    from mmret.cli import app

    noted = lake.facts("triplets", SHARD).notes["quality"]
    assert measure_shard(lake, SHARD, lake.read("triplets", SHARD), resolve(lake)[0]) == noted
    assert sum(noted["instruction_words"]["counts"]) == sum(map(len, lake.read("triplets", SHARD)["texts"].to_pylist()))
    done = CliRunner().invoke(app, ["quality", "--lake", str(lake.root), "--json", "--pictures", str(lake.root / "out")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[SHARD] == noted
    assert (lake.root / "out" / f"{SHARD}.png").read_bytes().startswith(b"\x89PNG")
    shown = CliRunner().invoke(app, ["quality", "--lake", str(lake.root), "--shard", SHARD])
    assert "found by the text alone" in shown.output and "at most 50%" in shown.output
    assert CliRunner().invoke(app, ["quality", "--lake", str(lake.root), "--shard", "none"]).exit_code != 0


def test_the_sample_bounds_the_work(lake: Lake) -> None:
    profile = resolve(lake, overrides={"quality.sample": 7, "quality.gallery": 11})[0]
    found = measure_shard(lake, SHARD, lake.read("triplets", SHARD), profile)
    assert (found["sample"], found["redundancy"]["sample"]) == (7, 7) and found["redundancy"]["candidates"] <= 11


def test_a_model_that_is_gone_leaves_the_redundancy_unmeasured(lake: Lake) -> None:
    gone = {"encoders.caption.model": "towers/none", "encoders.clip_image.model": "towers/none"}
    profile = resolve(lake, overrides=gone)[0]
    found = measure_shard(lake, SHARD, lake.read("triplets", SHARD), profile)
    assert found["redundancy"] is None and found["distinct_2"] > 0
    assert quality_picture(found, QualitySettings().model_dump()).startswith(b"\x89PNG")


def test_the_picture_fits_into_an_event_log(lake: Lake) -> None:
    noted = lake.facts("triplets", SHARD).notes["quality"]
    assert len(quality_picture(noted, QualitySettings().model_dump())) < 60_000


def _check(lake: Lake, name: str, **limits: float) -> list[dg.AssetCheckEvaluation]:
    from assets.definitions import defs

    job = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection=set(), asset_check_selection={dg.AssetCheckKey(dg.AssetKey("triplets"), name)}
    )
    config = {
        "resources": {
            "lake": {"config": {"folder": str(lake.root)}},
            "profile": {"config": {"overrides": {f"quality.{k}": v for k, v in limits.items()}}},
        }
    }
    return list(job.execute_in_process(run_config=config).get_asset_check_evaluations())


@pytest.mark.parametrize(
    "name, limit, at_most",
    [
        ("texts_do_not_tell_the_target", "max_text_alone", True),
        ("images_do_not_tell_the_target", "max_image_alone", True),
        ("texts_are_varied", "min_distinct_2", False),
        ("texts_do_not_tell_the_source", "max_leakage", True),
        ("most_pairs_have_texts", "max_failed", True),
    ],
)
def test_a_figure_beyond_its_limit_warns_and_blocks_nothing(
    lake: Lake, tmp_path: Path, name: str, limit: str, at_most: bool
) -> None:
    planted = Lake(shutil.copytree(lake.root, tmp_path / "lake"))
    facts, rows = planted.facts("triplets", SHARD), planted.read("triplets", SHARD).slice(0, 70)
    figures = {"distinct_2": 0.3, "leakage": 0.3, "redundancy": {"text_alone": 0.3, "image_alone": 0.3}}
    planted.write("triplets", SHARD, rows, facts.inputs, left_out={"no_description": 30}, quality=figures)
    within, beyond = (0.4, 0.2) if at_most else (0.2, 0.4)
    fine, warned = (_check(planted, name, **{limit: value}) for value in (within, beyond))
    for found, value in ((fine, []), (warned, [[SHARD, "0.3"]])):
        assert [row for row in found[0].metadata["violations"].value if row[0] == SHARD] == value
        assert found[0].metadata["shards"].value[SHARD] == pytest.approx(0.3)
        assert {each.severity for each in found} == {dg.AssetCheckSeverity.WARN}
    assert not [each for each in fine if each.partition == SHARD and not each.passed]
    assert [each.passed for each in warned if each.partition == SHARD] == [False]


def test_a_target_is_first_only_where_it_is_nearer_by_more_than_rounding() -> None:
    queries = np.array([[1.0, 0.0]] * 3)
    targets = np.array([[1e-6, 0.0], [2e-6, 0.0], [0.0, 0.0]])
    none = [np.zeros((0, 2))] * 3
    gallery, shared = np.array([[0.0, 1.0]]), np.zeros((3, 1), bool)
    assert metrics.hits_at_1(queries, targets, gallery, shared, none).tolist() == [False, True, False]
    assert metrics.hits_at_1(queries, targets, gallery, ~shared, none).tolist() == [True] * 3  # nothing else is a candidate
    near = [np.array([[1.0, 0.0]]), np.array([[-1.0, 0.0]]), none[0]]
    assert metrics.hits_at_1(queries, targets, gallery, ~shared, near).tolist() == [False, True, True]
