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
from mmret.studies.tables import claims, figures, markdown

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


def test_a_claim_is_shown_by_its_intervals_and_not_by_the_means(tmp_path):
    # negatives rise by a point or so in every seed; of the signals the last beats the first two and is level with the third;
    # scaling rises on the mean alone; naive pairs are ahead in every seed
    def value(study, place, seed):
        if study == "negatives":
            return 10 * seed + place * (1 + seed / 10)
        if study == "signals":
            return [1.0, 1.1, 4.9 + (seed == 1), 5.0 + seed / 10][place]
        return [9.0, 8.0 - seed / 10, 7.0 + 4 * seed][place]

    found = told(evaluated(tmp_path, value))
    negatives = found["negatives"]
    assert negatives["holds"] and negatives["verdict"] == "shown" and negatives["at_most_below"] is None
    assert [(d["label"], d["over"]) for d in negatives["differences"]] == [("+ query image", "none"), ("+ mined", "+ query image")]
    first = negatives["differences"][0]
    assert (first["mean"], first["positive"], first["seeds"]) == (1.1, 3, 3)
    assert (first["low"], first["high"]) == pytest.approx((1.1 - 4.303 * 0.1 / 3**0.5, 1.1 + 4.303 * 0.1 / 3**0.5), abs=1e-3)
    signals = found["signals"]
    assert signals["verdict"] == "not shown" and [d["verdict"] for d in signals["differences"]] == ["shown", "shown", "not shown"]
    assert signals["at_most_below"] == pytest.approx(-signals["differences"][2]["low"])
    assert found["scaling"]["verdict"] == "contradicted"
    variant = negatives["variants"][0]
    assert variant["low"]["R@10"] == pytest.approx(10 - 4.303 * 10 / 3**0.5, abs=1e-2)


def test_tables_say_what_was_measured_and_what_is_shown(tmp_path):
    lake = evaluated(tmp_path, lambda study, place, seed: 5.0 + place + seed / 5 if study != "scaling" else 1.0, (0, 1))
    found = results(lake, STUDIES)
    page = markdown(figures(found)) + "\n" + markdown(claims(found))
    assert "| hard negatives | none | 2 | 5.1 ± 0.1 | 5.1 ± 0.1 |" in page
    assert "|  | + mined over + query image | +1.0 | +1.0 to +1.0 | 2 of 2 | shown |" in page
    assert "|  | each above the one before; means in order, in 2 of 2 seeds |  |  |  | SHOWN |" in page
    widths = {line.count("|") for line in markdown(claims(found)).splitlines()}
    assert widths == {7}


def test_what_is_missing_is_not_judged(tmp_path):
    def value(study, place, seed):
        return None if (study, place) == ("signals", 2) else 3.0 + place

    found = told(evaluated(tmp_path, value, (0,)))
    assert found["signals"]["holds"] is None and found["signals"]["variants"][2]["mean"] == {}
    assert found["negatives"]["holds"] and found["negatives"]["variants"][0]["spread"]["R@10"] is None
    assert found["signals"]["verdict"] == "not measured" and found["negatives"]["verdict"] == "needs two seeds"


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
