"""Malformed prediction files are refused by a message on stderr and exit code 2; nothing is scored by luck."""

from __future__ import annotations

import gzip
import json
import random

import pytest

from mmret.benchmarks.score import score_file
from mmret.errors import UserError

from .conftest import dump
from .layouts import (
    ASINS,
    CIRCO_IDS,
    CIRR_NAMES,
    LAYOUTS,
    circo,
    circo_predictions,
    cirr,
    cirr_predictions,
    mmeb_predictions,
)


@pytest.fixture
def score(call, tmp_path):
    """Score ``data`` for ``benchmark`` against its tiny layout."""

    def run(benchmark, data, *more, name="predictions.json"):
        path = dump(tmp_path / name, data) if not isinstance(data, bytes) else tmp_path / name
        if isinstance(data, bytes):
            path.write_bytes(data)
        return call(
            benchmark,
            "--annotations",
            LAYOUTS[benchmark][0](tmp_path / benchmark),
            "--predictions",
            path,
            "--json",
            *more,
        )

    return run


@pytest.mark.parametrize("benchmark", LAYOUTS)
def test_a_well_formed_file_is_scored_plain_and_gzipped_whatever_it_is_called(score, benchmark):
    data = LAYOUTS[benchmark][1]()
    plain = score(benchmark, data)
    assert plain.code == 0, plain.err
    assert score(benchmark, data, name="predictions.json.gz").json == plain.json
    assert score(benchmark, gzip.compress(json.dumps(data).encode()), name="zipped.json").json == plain.json
    assert score(benchmark, json.dumps(data).encode("utf-8-sig"), name="bom.json.gz").json == plain.json


FIRST = {"circo": "0", "cirr": "12060", "fashioniq": "dress", "genecis": "focus_attribute", "mmeb": "ImageNet-1K"}
ENTRY = {"circo": 105, "cirr": CIRR_NAMES[7], "fashioniq": ASINS[5], "genecis": 1, "mmeb": 1}


def spoil(benchmark, change):
    """Predictions whose first list was replaced by ``change(list)``."""
    data = LAYOUTS[benchmark][1]()
    key = FIRST[benchmark]
    if isinstance(data[key][0], list):
        data[key][0] = change(list(data[key][0]))
    else:
        data[key] = change(list(data[key]))
    return data


SPOILED = {
    "a duplicate id": (lambda r: [*r[:-1], r[0]], "more than once"),
    "null in a list": (lambda r: [None, *r[1:]], "must be"),
    "a nested list": (lambda r: [[r[0]], *r[1:]], "must be"),
    "a float": (lambda r: [0.0, *r[1:]], "must be"),
    "a boolean": (lambda r: [True, *r[1:]], "must be"),
    "an empty list": (lambda r: [], "not a list of predictions"),
    "no list": (lambda r: 7, "not a list of predictions"),
}


@pytest.mark.parametrize("benchmark", LAYOUTS)
@pytest.mark.parametrize("what", SPOILED)
def test_a_spoiled_list_is_refused(score, benchmark, what):
    change, message = SPOILED[what]
    answer = score(benchmark, spoil(benchmark, change))
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err


@pytest.mark.parametrize("benchmark", ["circo", "genecis", "mmeb"])
def test_integer_ids_given_as_strings_are_refused(score, benchmark):
    answer = score(benchmark, spoil(benchmark, lambda r: [str(x) for x in r]))
    assert answer.code == 2 and "must be JSON integers" in answer.err


@pytest.mark.parametrize("benchmark", ["cirr", "fashioniq"])
def test_names_given_as_integers_are_refused(score, benchmark):
    answer = score(benchmark, spoil(benchmark, lambda r: list(range(len(r)))))
    assert answer.code == 2 and "must be strings" in answer.err


@pytest.mark.parametrize(
    "benchmark, unknown",
    [
        ("circo", 99),
        ("circo", 10**9),
        ("circo", -1),
        ("cirr", "dev-999-0-img0"),
        ("fashioniq", "B999999999"),
        ("genecis", 5),
        ("genecis", -1),
        ("mmeb", -1),
    ],
)
def test_an_unknown_id_is_refused(score, benchmark, unknown):
    answer = score(benchmark, spoil(benchmark, lambda r: [unknown, *r[1:]]))
    assert answer.code == 2 and "do not exist" in answer.err and str(unknown) in answer.err


@pytest.mark.parametrize("benchmark", ["cirr", "fashioniq", "genecis"])
def test_too_few_predictions_are_refused_and_scored_only_as_partial(score, benchmark):
    data = spoil(benchmark, lambda r: r[:-1])
    answer = score(benchmark, data)
    assert answer.code == 2 and "too few" in answer.err
    allowed = score(benchmark, data, "--partial")
    assert allowed.code == 0 and "shorter" in allowed.err


@pytest.mark.parametrize("benchmark", ["circo", "cirr"])
def test_a_missing_query_is_refused_and_scored_only_as_partial(score, benchmark):
    data = LAYOUTS[benchmark][1]()
    whole = score(benchmark, data).json
    del data[FIRST[benchmark]]
    answer = score(benchmark, data)
    assert answer.code == 2 and f"no predictions for 1 of 4 queries: {FIRST[benchmark]}" in answer.err
    allowed = score(benchmark, data, "--partial")
    assert allowed.code == 0 and "no predictions for 1 of 4" in allowed.err
    assert allowed.json.keys() == whole.keys()


@pytest.mark.parametrize("benchmark", ["fashioniq", "genecis"])
def test_a_missing_ranking_of_a_category_is_refused_and_scored_only_as_partial(score, benchmark):
    data = LAYOUTS[benchmark][1]()
    data[FIRST[benchmark]].pop()
    answer = score(benchmark, data)
    assert answer.code == 2 and "has 3 rankings for the 4 queries" in answer.err
    assert score(benchmark, data, "--partial").code == 0


@pytest.mark.parametrize("benchmark", ["fashioniq", "genecis"])
def test_a_surplus_ranking_is_refused_even_as_partial(score, benchmark):
    data = LAYOUTS[benchmark][1]()
    data[FIRST[benchmark]].append(data[FIRST[benchmark]][0])
    assert score(benchmark, data, "--partial").code == 2


@pytest.mark.parametrize(
    "benchmark, key",
    [
        ("circo", "4"),
        ("circo", "00"),
        ("circo", "x"),
        ("cirr", "012060"),
        ("fashioniq", "trousers"),
        ("genecis", "focus"),
        ("mmeb", "CIFAR-100"),
    ],
)
def test_an_unknown_query_category_task_or_set_is_refused(score, benchmark, key):
    data = LAYOUTS[benchmark][1]()
    data[key] = data[FIRST[benchmark]]
    answer = score(benchmark, data)
    assert answer.code == 2 and key in answer.err


def test_a_training_set_name_of_mmeb_is_refused_with_the_evaluation_name(score):
    data = mmeb_predictions()
    data["ImageNet_1K"] = data.pop("ImageNet-1K")
    answer = score("mmeb", data)
    assert answer.code == 2 and "did you mean ImageNet-1K?" in answer.err


@pytest.mark.parametrize("benchmark", LAYOUTS)
@pytest.mark.parametrize(
    "text, message",
    [
        ('{"0": [1, 2', "not valid JSON"),
        ("", "not valid JSON"),
        ("nonsense", "not valid JSON"),
        ('{"0": [NaN]}', "NaN"),
        ('{"0": [Infinity]}', "Infinity"),
        ('{"0": [1], "0": [2]}', "occurs twice"),
        ("{}", "empty"),
        ("[]", "a list"),
        ("null", "no JSON object"),
        ("3", "no JSON object"),
        ("[" * 100_000, "nested"),
    ],
)
def test_a_broken_document_is_refused(score, benchmark, text, message):
    answer = score(benchmark, text)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err


@pytest.mark.parametrize("benchmark", LAYOUTS)
def test_truncated_gzip_and_binary_files_are_refused(score, benchmark):
    whole = gzip.compress(b'{"0": [1, 2, 3]}' * 1000)
    assert "truncated gzip" in score(benchmark, whole[: len(whole) // 2], name="half.json.gz").err
    answer = score(benchmark, b"\x89PNG\r\n\xff\xfe", name="picture.json")
    assert answer.code == 2 and "not UTF-8" in answer.err


@pytest.mark.parametrize("benchmark", LAYOUTS)
@pytest.mark.parametrize("other", LAYOUTS)
def test_another_benchmarks_file_is_refused_and_named(score, benchmark, other):
    if benchmark == other:
        pytest.skip("the right file")
    answer = score(benchmark, LAYOUTS[other][1]())
    assert answer.code == 2
    name = {"circo": "CIRCO", "cirr": "CIRR", "fashioniq": "FashionIQ", "genecis": "GeneCIS", "mmeb": "MMEB"}[other]
    assert name in answer.err


@pytest.mark.parametrize("benchmark", LAYOUTS)
def test_another_benchmarks_annotations_are_refused(call, tmp_path, benchmark):
    other = "circo" if benchmark != "circo" else "cirr"
    annotations = LAYOUTS[other][0](tmp_path / "annotations")
    file = next(p for p in sorted(annotations.rglob("*.json")) if p.name.startswith(("val", "cap")))
    predictions = dump(tmp_path / "p.json", LAYOUTS[benchmark][1]())
    for given in (annotations, file, tmp_path / "nowhere"):
        answer = call(benchmark, "--annotations", given, "--predictions", predictions)
        assert answer.code == 2 and answer.err, given


@pytest.mark.parametrize("benchmark", LAYOUTS)
def test_a_missing_prediction_file_or_a_folder_is_refused(call, tmp_path, benchmark):
    annotations = LAYOUTS[benchmark][0](tmp_path / "annotations")
    for given in (tmp_path / "none.json", tmp_path):
        answer = call(benchmark, "--annotations", annotations, "--predictions", given)
        assert answer.code == 2 and "cannot be read" in answer.err


def test_every_problem_is_counted_and_the_first_five_are_shown(call, tmp_path):
    predictions = dump(tmp_path / "p.json", {key: [10, *ids[1:]] for key, ids in circo_predictions(20).items()})
    answer = call("circo", "--annotations", circo(tmp_path, 20), "--predictions", predictions)
    assert "query 0: 10; query 1: 10; query 2: 10; query 3: 10; query 4: 10; and 15 more" in answer.err


@pytest.mark.parametrize(
    "header, message",
    [
        ({"version": "rc1"}, "rc1"),
        ({"version": 2}, "version 2"),
        ({"version": None}, "version"),
        ({"metric": "recall_subset"}, "swap"),
        ({"metric": "mAP"}, "mAP"),
        ({"version": ...}, "lacks"),
        ({"metric": ...}, "lacks"),
    ],
)
def test_cirr_wrong_or_missing_version_and_metric_are_refused(score, header, message):
    data = {**cirr_predictions(), **header}
    answer = score("cirr", {k: v for k, v in data.items() if v is not ...})
    assert answer.code == 2 and message in answer.err


def test_cirr_a_subset_name_outside_the_set_is_refused(call, tmp_path):
    annotations = cirr(tmp_path / "cirr")
    recall = dump(tmp_path / "recall.json", cirr_predictions())
    subset = cirr_predictions("recall_subset")
    subset["12061"] = CIRR_NAMES[57:60]
    answer = call(
        "cirr",
        "--annotations",
        annotations,
        "--predictions",
        recall,
        "--subset-predictions",
        dump(tmp_path / "subset.json", subset),
    )
    assert answer.code == 2 and "pairid 12061: 'dev-57-0-img0'" in answer.err


def test_the_test_splits_are_validated_but_never_scored(golden, call):
    circo_answer = call(
        "circo",
        "--annotations",
        golden / "circo" / "test.json",
        "--predictions",
        golden / "circo" / "mmret_base_circo.json",
    )
    assert circo_answer.code == 2 and "well-formed" in circo_answer.err and "hidden" in circo_answer.err
    folder = golden / "cirr"
    cirr_answer = call(
        "cirr",
        "--annotations",
        folder / "cap.rc2.test1.json",
        "--predictions",
        folder / "test1_pred_ranks_recall.json.gz",
        "--subset-predictions",
        folder / "test1_pred_ranks_recall_subset.json.gz",
    )
    assert cirr_answer.code == 2 and "well-formed" in cirr_answer.err


@pytest.mark.parametrize("option, benchmark", [("--soft", "circo"), ("--remove-reference", "cirr"), ("--gallery=union", "genecis")])
def test_an_option_of_another_benchmark_is_refused(score, option, benchmark):
    answer = score(benchmark, LAYOUTS[benchmark][1](), option)
    assert answer.code == 2 and "only" in answer.err


def test_an_unknown_benchmark_is_refused(call, tmp_path):
    assert call("coco", "--annotations", tmp_path, "--predictions", tmp_path).code == 2


def test_scores_of_partial_predictions_are_over_what_is_there(score):
    data = circo_predictions()
    del data["0"]
    data = {key: [int(key) + 110, *(i for i in CIRCO_IDS if i != int(key) + 110)][:50] for key in data}
    assert score("circo", data, "--partial").json["Recall"]["5"] == 100.0


def places(node, path=()):
    """Paths to every value of a document, the first four entries of long lists."""
    yield path
    if isinstance(node, dict):
        for key, value in list(node.items())[:6]:
            yield from places(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node[:4]):
            yield from places(value, (*path, index))


def with_value(node, path, value):
    """A copy of the document with ``value`` at ``path``."""
    if not path:
        return value
    changed = dict(node) if isinstance(node, dict) else list(node)
    changed[path[0]] = with_value(node[path[0]], path[1:], value)
    return changed


@pytest.mark.parametrize("benchmark", LAYOUTS)
def test_a_file_with_any_value_replaced_is_scored_or_refused_and_never_crashes(tmp_path, benchmark):
    annotations = LAYOUTS[benchmark][0](tmp_path / "a")
    predictions = dump(tmp_path / "p.json", LAYOUTS[benchmark][1]())
    draw = random.Random(0)
    for file in [*sorted((tmp_path / "a").rglob("*.json")), predictions]:
        original = json.loads(file.read_text())
        found = list(places(original))
        for path in draw.sample(found, min(30, len(found))):
            value = draw.choice([None, True, 0, -1, 1.5, "", "x", [], {}, [[]], [None], {"a": 1}, "0", 10**30])
            dump(file, with_value(original, path, value))
            try:
                json.dumps(score_file(benchmark, annotations, predictions).values, allow_nan=False)
            except UserError as error:
                assert str(tmp_path) in str(error) or benchmark == "fashioniq"
        dump(file, original)
