"""Annotation files in small, without the golden ones: where each benchmark's files are sought and in which order, what is refused
in them; the submissions that servers take; reports of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from mmret.benchmarks.circo import scorer as circo
from mmret.benchmarks.circo.submission import circo_submission
from mmret.benchmarks.cirr import scorer as cirr
from mmret.benchmarks.cirr.submission import cirr_submission
from mmret.benchmarks.common.reading import annotation_file, companion_file, read_json, recognise
from mmret.benchmarks.common.reports import comparison, evaluation_rows, markdown, picture, record, remarks, robustness, summary
from mmret.benchmarks.common.runs import COMPOSED, IMAGE_ONLY, BenchmarkRun, MissingPictures, Variant
from mmret.benchmarks.common.scores import ScoreOptions
from mmret.benchmarks.common.submissions import MAX_BYTES, write_submission
from mmret.benchmarks.fashioniq import scorer as fashioniq
from mmret.benchmarks.genecis import scorer as genecis
from mmret.benchmarks.mmeb import scorer as mmeb
from mmret.benchmarks.mmeb.runner import Instructions, Side, clean
from mmret.errors import UserError
from mmret.lake import Lake

from . import layouts
from .conftest import dump, load


def spoiled(path: Path, change) -> Path:
    entries = load(path)
    change(entries)
    return dump(path, entries)


# -- files -----------------------------------------------------------------------------------------------------------------


def test_a_file_is_sought_by_pattern_before_name_and_plain_before_gzip(tmp_path):
    for name in ("b.json.gz", "z/a.json", "b.json"):
        dump(tmp_path / name, {})
    assert annotation_file(tmp_path, "a.json", "b.json") == tmp_path / "z" / "a.json"
    assert annotation_file(tmp_path, "b.json") == tmp_path / "b.json"
    (tmp_path / "b.json").unlink()
    assert annotation_file(tmp_path, "b.json") == tmp_path / "b.json.gz" and annotation_file(tmp_path, "c.json") is None
    assert annotation_file(tmp_path / "z" / "a.json", "c.json") == tmp_path / "z" / "a.json"


def test_a_companion_lies_beside_the_file_or_among_the_image_splits_in_the_order_of_its_names(tmp_path):
    file = dump(tmp_path / "captions" / "cap.json", {})
    assert companion_file(file, "x.json", "y.json") is None
    dump(tmp_path / "image_splits" / "x.json", {})
    assert companion_file(file, "x.json", "y.json") == tmp_path / "image_splits" / "x.json"
    dump(file.parent / "y.json.gz", {})
    assert companion_file(file, "x.json", "y.json") == file.parent / "y.json.gz", "beside it comes first"


@pytest.mark.parametrize("data, looks", [
    ([], "a list"), ({}, "empty"), (3, "no JSON object"), ({"metric": "recall"}, "a CIRR submission (metric 'recall')"),
    ({"version": "rc2"}, "a CIRR submission"), ({"dress": []}, "a FashionIQ file"), ({"focus_object": []}, "a GeneCIS file"),
    ({"0": [3]}, "a CIRCO file"), ({"x": [3]}, "an object with the keys x"), ({"GQA": [[0]]}, "an MMEB file"),
])  # fmt: skip
def test_a_file_of_another_benchmark_is_recognised(data, looks):
    assert recognise(data).startswith(looks)


def test_json_is_read_plain_and_gzipped_with_a_byte_order_mark_and_no_key_twice(tmp_path):
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "bom.json") == [1] and read_json(dump(tmp_path / "x.gz", [2])) == [2]
    (tmp_path / "twice.json").write_text('{"a": 1, "b": 2, "a": 3}')
    with pytest.raises(UserError, match="the key 'a' occurs twice"):
        read_json(tmp_path / "twice.json")


def test_circo_val_is_preferred_and_its_gallery_is_coco_s_list_wherever_it_lies(tmp_path):
    folder = layouts.circo(tmp_path)
    dump(folder / "test.json", [{k: v for k, v in load(folder / "val.json")[0].items() if "gt" not in k and "target" not in k}])
    found = circo.load(folder)
    assert found.path.name == "val.json" and found.gallery == tuple(layouts.CIRCO_IDS) and not found.targets_hidden
    assert circo.load(folder / "test.json").targets_hidden
    info = tmp_path / "COCO2017_unlabeled" / "annotations" / circo.INFO
    text = json.dumps({"images": [{"id": 7}, {"id": 3}]})
    info.unlink()
    assert circo.load(folder).gallery is None
    dump(folder / "circo_corpus.jsonl", '{"content": 9}\n{"content": 8}')
    assert circo.load(folder).gallery == (9, 8)
    for place in (folder / circo.INFO, folder / "annotations" / circo.INFO):
        dump(place, text)
        assert circo.load(folder).gallery == (7, 3)
        place.unlink()


@pytest.mark.parametrize("change, said", [
    (lambda e: e.append(dict(e[0])), "a query id occurs twice"),
    (lambda e: e[1].update(gt_img_ids=[]), "query 1 has a target but no gt_img_ids"),
    (lambda e: e[1].update(id="1"), "at 1.id"),
    (lambda e: e.clear(), "is empty"),
])  # fmt: skip
def test_circo_annotations_that_contradict_themselves_are_refused(tmp_path, change, said):
    folder = layouts.circo(tmp_path)
    spoiled(folder / "val.json", change)
    with pytest.raises(UserError, match=said):
        circo.load(folder)


@pytest.mark.parametrize("change, said", [
    (lambda e: e.append(dict(e[0])), "a pairid occurs twice"),
    (lambda e: e[1].update(reference="dev-59-0-img0"), "pairid 12061: the reference is not among the members"),
])  # fmt: skip
def test_cirr_annotations_that_contradict_themselves_are_refused(tmp_path, change, said):
    folder = layouts.cirr(tmp_path)
    spoiled(folder / "captions" / "cap.rc2.val.json", change)
    with pytest.raises(UserError, match=said):
        cirr.load(folder)


def test_cirr_gallery_is_the_split_or_without_one_members_and_targets(tmp_path):
    folder = layouts.cirr(tmp_path, 2)
    assert list(cirr.load(folder).gallery) == layouts.CIRR_NAMES
    assert cirr.load(folder).gallery["dev-3-0-img0"] == "./dev/dev-3-0-img0.png"
    (folder / "image_splits" / "split.rc2.val.json").unlink()
    outside = "dev-59-0-img0"
    spoiled(folder / "captions" / "cap.rc2.val.json", lambda e: e[0].update(target_hard=outside))
    gallery = cirr.load(folder).gallery
    assert set(gallery) == {n for q in cirr.load(folder).queries for n in q.members} | {outside} and set(gallery.values()) == {None}
    ext = dump(folder / "cap.ext.val.json", load(folder / "captions" / "cap.rc2.val.json"))
    with pytest.raises(UserError, match="auxiliary annotations"):
        cirr.load(ext)


def test_cirr_lists_are_checked_against_the_gallery_and_subset_lists_against_their_own_set(tmp_path):
    truth = cirr.load(layouts.cirr(tmp_path, 2))
    subset = layouts.cirr_predictions("recall_subset", 2)
    rankings, notes = cirr.read_predictions(truth, dump(tmp_path / "s.json", subset), "recall_subset")
    assert rankings[12060] == subset["12060"] and notes == []
    subset["12060"] = ["dev-11-0-img0", *subset["12060"][:2]]  # of the other query's set
    with pytest.raises(UserError, match="do not exist"):
        cirr.read_predictions(truth, dump(tmp_path / "s.json", subset), "recall_subset")
    subset["12060"] = layouts.cirr_predictions("recall_subset", 2)["12060"][:2]
    with pytest.raises(UserError, match="at least 3"):
        cirr.read_predictions(truth, dump(tmp_path / "s.json", subset), "recall_subset")
    recall = layouts.cirr_predictions("recall", 2)
    recall["12061"] = recall["12061"][:49]
    with pytest.raises(UserError, match="at least 50"):
        cirr.read_predictions(truth, dump(tmp_path / "r.json", recall), "recall")


@pytest.mark.parametrize("kind, spoil", [(None, None), ("reference", 0), ("cut", 1)])
def test_cirr_a_listed_reference_and_a_gallery_of_references_are_each_remarked_where_they_are_so(tmp_path, kind, spoil):
    truth, lists = cirr.load(layouts.cirr(tmp_path)), layouts.cirr_predictions()
    if kind == "reference":
        lists["12060"].insert(3, layouts.CIRR_NAMES[0])
    if kind == "cut":
        lists |= {str(12060 + i): [n for n in layouts.CIRR_NAMES[:4] if n != layouts.CIRR_NAMES[i]] for i in range(4)}
    rankings, notes = cirr.read_predictions(truth, dump(tmp_path / "p.json", lists), "recall", partial=True)
    assert any("1 recall lists contain the query's own reference" in n for n in notes) == (kind == "reference")
    assert any("cut down to references" in n for n in notes) == (kind == "cut")
    assert all(f"dev-{i - 12060}-0-img0" not in ranking for i, ranking in rankings.items())


def test_fashioniq_files_are_named_by_category_and_a_split_must_hold_its_captions_images(tmp_path):
    folder = layouts.fashioniq(tmp_path, ("dress", "toptee"))
    assert list(fashioniq.load(folder)) == ["dress", "toptee"]
    one = fashioniq.load(folder / "captions" / "cap.dress.val.json")["dress"]
    assert one.gallery == tuple(layouts.ASINS) and one.union == {*layouts.ASINS[:4], *layouts.ASINS[10:14]}
    for name in ("cap.dress.json", "cup.dress.val.json", "cap.hats.val.json"):
        with pytest.raises(UserError, match="a FashionIQ annotation file is called"):
            fashioniq.load(dump(folder / name, load(folder / "captions" / "cap.dress.val.json")))
    dump(folder / "image_splits" / "split.dress.val.json", layouts.ASINS[1:])
    with pytest.raises(UserError, match=f"do not belong together: 1 images of the captions, {layouts.ASINS[0]}"):
        fashioniq.load(folder / "captions")
    (folder / "image_splits" / "split.dress.val.json").unlink()
    category = fashioniq.load(folder / "captions" / "cap.dress.val.json")["dress"]
    _, notes = fashioniq.read_predictions(category, [layouts.ASINS[:50]] * 4, Path("p"), ScoreOptions())
    assert category.gallery is None and any("unknown ASINs cannot be told" in n for n in notes)


@pytest.mark.parametrize("picture, fits", [
    ({"val_image_id": 7}, True), ({"image_id": "7", "instance_bbox": [1, 2, 3, 4]}, True),
    ({"val_image_id": 7, "image_id": "7"}, False), ({}, False), ({"image_id": "7"}, False),
    ({"val_image_id": 7, "instance_bbox": [1, 2, 3, 4]}, False), ({"image_id": "7", "instance_bbox": [1, 2, 3]}, False),
])  # fmt: skip
def test_genecis_a_picture_is_a_whole_one_or_a_box_in_one(tmp_path, picture, fits):
    path = layouts.genecis(tmp_path, ("focus_object",), 1) / "focus_object.json"
    spoiled(path, lambda e: e[0].update(reference=picture))
    if not fits:
        with pytest.raises(UserError, match="is not a list of GeneCIS templates"):
            genecis.load(path)
        return
    (template,) = genecis.load(path)["focus_object"].templates
    assert template.reference == (
        genecis.Picture("7.jpg", (1, 2, 3, 4)) if "image_id" in picture else genecis.Picture("000000000007.jpg")
    )
    assert [p.file for p in template.candidates][:2] == ["000000000210.jpg", "000000000220.jpg"], "the target first"


def test_mmeb_a_set_listed_twice_or_unknown_is_refused_with_the_name_meant(tmp_path):
    tasks = layouts.mmeb(tmp_path)
    for name, said in (("ImageNet1K", "did you mean ImageNet-1K"), ("CIFAR-100", "is not one of the 36"), ("qq", "looks like")):
        with pytest.raises(UserError, match=said):
            mmeb.score(tasks, dump(tmp_path / "p.json", {name: [[0]]}), ScoreOptions())
    spoiled(tasks, lambda e: e.append(dict(e[0])))
    with pytest.raises(UserError, match="ImageNet-1K is listed twice"):
        mmeb.load(tasks)


@pytest.mark.parametrize("mode, query, target", [
    ("content", Side("a dog", "p"), Side("a cat", "")),
    ("instructed", Side("a dog", "p", "Find it:"), Side("Say: a cat", "")),
    ("full", Side("Find it: a dog", "p"), Side("Say: a cat", "")),
])  # fmt: skip
def test_mmeb_instructions_are_cut_off_passed_on_or_left_as_the_mode_says(mode, query, target):
    made = Instructions(" Find it: ", "Say:", mode)
    assert made.query_side("<|image_1|>\nFind it: a dog", "p") == query and made.target_side("Say: a cat", "") == target
    assert made.query_side("a dog", "p").instruction == "", "a text without it"
    own = made.query_side("a dog", "p", "Row: ")
    assert own == {
        "content": Side("a dog", "p"), "instructed": Side("a dog", "p", "Row: "), "full": Side("Row: a dog", "p")
    }[mode]  # fmt: skip
    assert made.target_side("a cat", "", "Row: ") == (Side("a cat", "") if mode == "content" else Side("Row: a cat", ""))
    assert clean(" <|image_1|> x ") == "x"


# -- submissions -------------------------------------------------------------------------------------------------------------


def test_circo_submissions_that_the_server_refuses_are_refused(tmp_path):
    truth, lists = circo.load(layouts.circo(tmp_path)), layouts.circo_predictions()
    assert list(circo_submission({k: lists[k] for k in "3102"}, truth)) == ["0", "1", "2", "3"]
    for change, said in (
        ({"9": lists["0"]}, "0 are missing and 1 are unknown"),
        ({"1": lists["1"][:49]}, "query 1: .* here are 49 of 49"),
        ({"1": [*lists["1"][:49], lists["1"][0]]}, "here are 49 of 50"),
        ({"1": [*lists["1"][:49], 99]}, "query 1: 99 is no image id"),
        ({"1": [*lists["1"][:49], str(lists["1"][49])]}, "query 1: '149' is no image id"),
    ):
        with pytest.raises(UserError, match=said):
            circo_submission(lists | change, truth)
    with pytest.raises(UserError, match="1 are missing and 0 are unknown"):
        circo_submission({k: lists[k] for k in "012"}, truth)


def test_cirr_submissions_that_the_server_refuses_are_refused(tmp_path):
    truth = cirr.load(layouts.cirr(tmp_path, 2))
    for metric, depth in (("recall", 50), ("recall_subset", 3)):
        lists = layouts.cirr_predictions(metric, 2)
        made = cirr_submission(lists, metric, truth)
        assert list(made) == ["version", "metric", "12060", "12061"] and made["metric"] == metric and made["version"] == "rc2"
        own, first = lists["12060"], layouts.CIRR_NAMES[0]
        for change, said in (
            ({"12060": own[:-1]}, f"needs {depth} distinct names, here are {depth - 1}"),
            ({"12060": [*own[:-1], own[0]]}, f"here are {depth - 1}"),
            ({"12060": [first, *own[1:]]}, "the reference itself"),
            ({"12060": ["x", *own[1:]]}, "gallery" if metric == "recall" else "query's set"),
            ({"7": own}, "7 is no pairid"),
        ):
            with pytest.raises(UserError, match=said):
                cirr_submission(lists | change, metric, truth)
        with pytest.raises(UserError, match="12061 is missing"):
            cirr_submission({k: v for k, v in lists.items() if k != "12061"}, metric, truth)


def test_a_submission_is_compact_and_no_larger_than_the_server_takes(tmp_path):
    assert write_submission(tmp_path / "a.json", {"x": [1, 2]}) == len('{"x":[1,2]}')
    assert (tmp_path / "a.json").read_text() == '{"x":[1,2]}'
    fitting = "y" * (MAX_BYTES - len('{"x":""}'))
    assert write_submission(tmp_path / "b.json", {"x": fitting}) == MAX_BYTES
    with pytest.raises(UserError, match="the server takes 5 MB"):
        write_submission(tmp_path / "c.json", {"x": fitting + "y"})


# -- reports -----------------------------------------------------------------------------------------------------------------


def a_run(**changes) -> BenchmarkRun:
    values = {"R": {"1": 10.0, "5": 30.0, "10": 40.0, "50": 80.0}, "Rs": {"1": 50.0, "2": 60.0, "3": None}}
    paraphrases = tuple(Variant(str(n), {"R": {"1": float(n)}}) for n in (4, 8, 9))
    given = {
        "benchmark": "cirr", "split": "val", "protocol": "1/x", "model": "m", "queries": 4, "gallery": 60,
        "variants": (Variant(COMPOSED, values), Variant(IMAGE_ONLY, {"R": {"1": 3.0}})), "paraphrases": paraphrases,
        "notes": ("said",),
    }  # fmt: skip
    return BenchmarkRun(**given | changes)


def test_rows_of_a_run_name_variant_metric_and_what_is_missing(tmp_path):
    rows = {r["metric"]: r["value"] for r in evaluation_rows(a_run(), "demo").to_pylist()}
    assert rows["R@1"] == 10 and rows["Rs@2"] == 60 and rows["image only R@1"] == 3 and "Rs@3" not in rows
    assert rows["paraphrases mean R@1"] == 7 and rows["paraphrases sd R@1"] == pytest.approx(7**0.5)
    partial = evaluation_rows(a_run(partial="PARTIAL"), "demo").to_pylist()
    assert {r["metric"] for r in partial} == {f"partial {m}" for m in rows} and partial[0]["benchmark"] == "cirr.val [1/x]"
    assert (partial[0]["queries"], partial[0]["gallery"], partial[0]["recipe"]) == (4, 60, "demo")
    keys = {evaluation_rows(a_run(**c), "demo")["inputs"][0].as_py() for c in (
        {}, {"model": "n"}, {"protocol": "2/x"}, {"split": "test1"}, {"queries": 5}, {"gallery": 61}, {"partial": "x"}
    )}  # fmt: skip
    assert len(keys) == 7
    lake = Lake(tmp_path)
    record(lake, a_run(), "demo")
    assert lake.partitions("evaluations") == ["demo.cirr.val"]
    assert lake.facts("evaluations", "demo.cirr.val").notes == {"protocol": "1/x", "partial": None}


def test_a_comparison_has_every_variant_then_published_rows_and_paraphrases_have_their_spread():
    metrics, rows = comparison({"ours": a_run(partial="P")})
    assert rows[0] == ("ours, composed (val, partial)", [dict(a_run().variants[0].metrics()).get(m) for m in metrics])
    assert rows[1][0] == "ours, image only (val, partial)" and all("published (" in label for label, _ in rows[2:])
    assert robustness(a_run()) == [("R@1", 7, pytest.approx(7**0.5), 4, 9)]
    assert robustness(a_run(paraphrases=a_run().paraphrases[:1])) == []
    assert summary(a_run())["paraphrases"] == {"R@1": {"mean": 7, "sd": pytest.approx(7**0.5), "lowest": 4, "highest": 9}}
    assert "ours over 3 paraphrases" in markdown({"ours": a_run()})


def test_the_picture_has_a_bar_of_each_models_value_with_its_figure_beside_it(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, dpi: drawn.append((self, path)))
    picture({"ours": a_run(partial="PARTIAL")}, tmp_path / "new" / "comparison.png")
    metrics, rows = comparison({"ours": a_run(partial="PARTIAL")})
    (figure, path), labels = drawn[0], [label for label, _ in rows]
    shown = [m for i, m in enumerate(metrics) if any(v[i] is not None for _, v in rows)][:4]
    assert path.parent.is_dir() and [axis.get_title() for axis in figure.axes] == shown
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == labels and figure.axes[0].yaxis_inverted()
    for axis, metric in zip(figure.axes, shown, strict=True):
        values = [v[metrics.index(metric)] for _, v in rows]
        assert [bar.get_width() for bar in axis.patches] == [v or 0 for v in values]
        assert [t.get_text().strip() for t in axis.texts] == ["-" if v is None else f"{v:.2f}" for v in values]
        assert axis.get_xlim()[0] == 0 and axis.get_xlim()[1] >= max(v or 0 for v in values) * 1.1
        greys = {bar.get_facecolor()[:3] for bar, label in zip(axis.patches, labels, strict=True) if "published" in label}
        own = {bar.get_facecolor()[:3] for bar, label in zip(axis.patches, labels, strict=True) if "published" not in label}
        assert len(greys) == 1 and len(own) == 2 and not greys & own
    assert "cirr" in figure.get_suptitle() and "PARTIAL" in figure.get_suptitle()


def test_remarks_begin_with_what_is_missing_and_tell_splits_apart():
    said = remarks(a_run(partial="PARTIAL: 3"))
    assert said[0] == "PARTIAL: 3" and "protocol 1/x; val split; 4 queries, gallery 60; model m" in said[1]
    assert any("not comparable with val" in s for s in said) and said[-1] == "said"
    test = remarks(a_run(split="test1", variants=(Variant(COMPOSED, {}),)))
    assert any("targets of this split are hidden" in s for s in test) and not any("hidden" in s for s in said)


def test_missing_pictures_are_listed_up_to_twenty_unless_they_are_allowed():
    MissingPictures().check(3, False, Path("x"))
    missing = MissingPictures({f"p{n}": "not found" for n in range(22)})
    missing.check(30, True, Path("x"))
    with pytest.raises(UserError, match="(?s)22 of 30 pictures are missing under x.*p19: not found\n  and 2 more"):
        missing.check(30, False, Path("x"))
    with pytest.raises(UserError, match="(?s)20 of 30.*p19: not found\nget them"):
        MissingPictures({f"p{n}": "not found" for n in range(20)}).check(30, False, Path("x"))
