"""Invariants: a claim is judged on the means and seed by seed, over the seeds that all variants have; what is missing is said
to be; the picture is drawn of whatever is there."""

import pyarrow as pa
import pytest

from mmret.lake import Lake
from mmret.schemas import EVALUATIONS
from mmret.settings import load_profile
from mmret.settings.studies import runs
from mmret.studies.picture import draw_studies
from mmret.studies.results import claim_holds, results

STUDIES = load_profile("studies").studies


def evaluated(tmp_path, value_of, seeds=(0, 1, 2)) -> Lake:
    lake = Lake(tmp_path)
    for study, variant, seed, name in runs(STUDIES):
        if lake.facts("evaluations", name):  # shared with a study before
            continue
        if seed in seeds and (value := value_of(study.name, study.variants.index(variant), seed)) is not None:
            rows = [
                {
                    "recipe": recipe,
                    "benchmark": STUDIES.benchmark,
                    "metric": metric,
                    "value": v,
                    "queries": 50,
                    "gallery": 80,
                    "inputs": "x",
                }
                for recipe, v in (("untrained", 1.0), (name, value))
                for metric in ("R@1", "R@10", "kept R@1", "kept R@10")
            ]
            lake.write("evaluations", name, pa.Table.from_pylist(rows, EVALUATIONS), "x")
    return lake


def told(lake: Lake) -> dict:
    return {s["name"]: s for s in results(lake, STUDIES)["studies"]}


def test_orders_that_hold_and_orders_that_do_not(tmp_path):
    # negatives fall in seed 2 only; of the signals the last is best; scaling is flat
    def value(study, place, seed):
        if study == "negatives":
            return 10.0 + place if seed < 2 else 10.5 - place / 10
        return 5.0 + place if study == "signals" else 7.0

    found = told(evaluated(tmp_path, value))
    assert (found["negatives"]["holds"], found["negatives"]["holds_in"], found["negatives"]["seeds"]) == (True, 2, 3)
    assert found["signals"]["holds"] and found["signals"]["holds_in"] == 3
    assert not found["headline"]["holds"] and found["headline"]["holds_in"] == 0
    shared = [found[name]["variants"][place]["recipes"] for name, place in (("scaling", 1), ("headline", 1))]
    assert not found["scaling"]["holds"] and shared[0] == shared[1]
    variant = found["signals"]["variants"][1]
    assert variant["mean"]["R@10"] == 6.0 and variant["spread"]["R@10"] == 0.0 and variant["values"]["R@10"] == [6.0] * 3


def test_what_is_missing_is_not_judged(tmp_path):
    def value(study, place, seed):
        return None if (study, place) == ("signals", 2) else 3.0 + place

    found = told(evaluated(tmp_path, value, (0,)))
    assert found["signals"]["holds"] is None and found["signals"]["variants"][2]["mean"] == {}
    assert found["negatives"]["holds"] and found["negatives"]["variants"][0]["spread"]["R@10"] is None


@pytest.mark.parametrize(
    "claim, values, holds",
    [("rising", [1, 2, 3], True), ("rising", [1, 3, 3], False), ("last", [3, 1, 3], True), ("last", [3, 1, 2], False)],
)
def test_claims(claim, values, holds):
    assert claim_holds(claim, values) is holds


def test_the_picture_is_drawn_whole_of_what_there_is(tmp_path):
    lake = evaluated(tmp_path / "lake", lambda study, place, seed: 4.0 + place if study != "signals" else None, (0,))
    draw_studies(results(lake, STUDIES), tmp_path / "deep" / "studies.png")
    assert (tmp_path / "deep" / "studies.png").read_bytes()[:4] == b"\x89PNG"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["studies.png"]
