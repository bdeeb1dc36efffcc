"""Runners end to end on tiny galleries in the official layouts: numbers, missing pictures, ties, caches, files,
rows.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from mmret.benchmarks.common.candidates import order
from mmret.benchmarks.common.reports import comparison, evaluation_rows, markdown, record, robustness, write_files
from mmret.benchmarks.common.runs import COMPOSED, IMAGE_ONLY, NO_CONCEPT, TEXT_ONLY, RunOptions
from mmret.benchmarks.common.scores import ScoreOptions
from mmret.benchmarks.run import run_benchmark, run_checkpoint
from mmret.benchmarks.score import score_file
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.schemas import EVALUATIONS

from .checkpoints import Broken, Colours, Constant, InstructedColours, clip_folder, paint
from .layouts import CIRCO_IDS
from .worlds import WORLDS, circo, cirr, fashioniq, genecis, mmeb

HEADLINE = {"circo": "Recall@5", "cirr": "R@1", "fashioniq": "mean R@10", "genecis": "mean R@1", "mmeb": "overall"}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return clip_folder(tmp_path_factory.mktemp("checkpoint"))


def options(images, annotations, **more):
    return RunOptions(images, annotations, **more)


def values(run, name=COMPOSED):
    return dict(next(v for v in run.variants if v.name == name).metrics())


@pytest.mark.parametrize("benchmark", ["circo", "cirr", "fashioniq", "mmeb"])
def test_a_model_that_reads_the_text_finds_every_target(tmp_path, benchmark):
    run = run_benchmark(benchmark, Colours(), "colours", options(*WORLDS[benchmark](tmp_path)))
    assert values(run)[HEADLINE[benchmark]] == pytest.approx(100)
    assert values(run, TEXT_ONLY)[HEADLINE[benchmark]] == pytest.approx(100)
    assert values(run, IMAGE_ONLY)[HEADLINE[benchmark]] < 100
    assert run.partial is None or benchmark == "mmeb"  # three of the 36 sets


@pytest.mark.parametrize("benchmark", WORLDS)
def test_written_predictions_score_to_the_same_numbers(tmp_path, benchmark):
    images, annotations = WORLDS[benchmark](tmp_path)
    run = run_benchmark(benchmark, Colours(0.7), "colours", options(images, annotations))
    write_files(run, "colours", tmp_path / "out")
    for variant in run.variants:
        folder = tmp_path / "out" / variant.name.replace(", ", "-").replace(" ", "-")
        if benchmark == "cirr":
            scores = score_file("cirr", annotations, folder / "recall.json", ScoreOptions(folder / "recall_subset.json"))
        else:
            scores = score_file(benchmark, annotations, folder / "predictions.json")
        assert scores.values == json.loads(json.dumps(variant.values))


@pytest.mark.parametrize("benchmark", WORLDS)
def test_clip_checkpoint_through_the_real_loading_path_on_real_pictures(tmp_path, checkpoint, photos, one_thread, benchmark):
    lake = Lake(tmp_path / "lake")
    images, annotations = WORLDS[benchmark](tmp_path)
    real = sorted((photos / "images").glob("*.jpg"))
    for i, path in enumerate(sorted(p for p in images.rglob("*") if p.suffix in (".jpg", ".png"))):
        path.write_bytes(real[i % len(real)].read_bytes())
    asked = options(images, annotations, paraphrases=benchmark == "cirr")
    run = run_checkpoint(benchmark, checkpoint, asked, lake)
    assert {COMPOSED, IMAGE_ONLY, TEXT_ONLY} <= {v.name for v in run.variants}
    for variant in run.variants:
        assert all(0 <= value <= 100 for _, value in variant.metrics())
    record(lake, run, "tiny")
    rows = lake.read("evaluations")
    assert rows.schema.equals(EVALUATIONS)
    assert set(rows["recipe"].to_pylist()) == {"tiny"}
    assert rows.equals(evaluation_rows(run, "tiny"))
    if benchmark == "cirr":
        assert len(run.paraphrases) == 5 and robustness(run)
        assert any("paraphrases mean" in m for m in rows["metric"].to_pylist())


def test_mllm_style_encoder_gets_the_instruction_with_queries_and_never_with_candidates(tmp_path):
    encoder = InstructedColours()
    run = run_benchmark("circo", encoder, "mllm", options(*circo(tmp_path)))
    assert values(run)["Recall@5"] == pytest.approx(100)
    assert encoder.instructions[0] is None  # the gallery
    assert {i for i in encoder.instructions if i} == {
        "Retrieve the target image that best meets the combined criteria by using both the provided image and the "
        "image retrieval instructions: "
    }


# -- pictures, caches, missing files ----------------------------------------------------------------------------------


def test_a_gallery_is_embedded_once_per_model_and_content_whatever_the_folder(tmp_path):
    lake = Lake(tmp_path / "lake")
    images, annotations = circo(tmp_path / "a")
    first, again, moved, other = Colours(), Colours(), Colours(), Colours()
    run_benchmark("circo", first, "m", options(images, annotations), lake)
    run_benchmark("circo", again, "m", options(images, annotations), lake)
    references = first.pictures - len(CIRCO_IDS)
    assert again.pictures == references  # the composed queries only
    run_benchmark("circo", moved, "m", options(*circo(tmp_path / "b")), lake)
    assert moved.pictures == references
    run_benchmark("circo", other, "another model", options(images, annotations), lake)
    assert other.pictures == first.pictures


def test_a_changed_picture_is_embedded_again_and_only_that(tmp_path):
    lake = Lake(tmp_path / "lake")
    images, annotations = circo(tmp_path)
    first, second = Colours(), Colours()
    run_benchmark("circo", first, "m", options(images, annotations), lake)
    paint(images / "unlabeled2017" / "000000000150.jpg", 999)
    run_benchmark("circo", second, "m", options(images, annotations), lake)
    assert second.pictures == first.pictures - len(CIRCO_IDS) + 1


@pytest.mark.parametrize("benchmark, lost", [
    ("circo", "unlabeled2017/000000000150.jpg"), ("cirr", "dev/dev-50-0-img0.png"),
    ("fashioniq", "images/B000000050.png"), ("genecis", "VG_100K/312.jpg"), ("mmeb", "pics/3.png"),
])  # fmt: skip
@pytest.mark.parametrize("how", ["absent", "damaged"])
def test_missing_and_damaged_pictures_are_listed_and_nothing_is_scored(tmp_path, benchmark, lost, how):
    images, annotations = WORLDS[benchmark](tmp_path)
    if how == "absent":
        (images / lost).unlink()
    else:
        (images / lost).write_bytes((images / lost).read_bytes()[:40])
    with pytest.raises(UserError, match="nothing was scored") as error:
        run_benchmark(benchmark, Colours(), "m", options(images, annotations))
    name = lost.split("/")[-1].split(".")[0].lstrip("0")
    assert all(part in str(error.value) for part in (name, "nothing was scored", "--allow-missing"))
    run = run_benchmark(benchmark, Colours(), "m", options(images, annotations, allow_missing=True))
    assert run.partial and "PARTIAL" in run.partial
    table = markdown({"m": run})
    assert ", partial)" in table and run.partial in table
    assert all(m.startswith("partial ") for m in evaluation_rows(run, "m")["metric"].to_pylist())


def test_a_missing_target_counts_against_the_model_and_a_missing_reference_leaves_the_query_out(tmp_path):
    images, annotations = cirr(tmp_path)
    (images / "dev" / "dev-10-0-img0.png").unlink()  # target of query 0
    (images / "dev" / "dev-1-0-img0.png").unlink()  # reference of query 1
    run = run_benchmark("cirr", Colours(), "m", options(images, annotations, allow_missing=True))
    assert run.queries == 3
    assert values(run)["R@1"] == pytest.approx(100 * 2 / 3)
    assert "1 of 4 queries were left out" in run.partial


def test_a_folder_without_the_pictures_is_refused(tmp_path):
    images, annotations = circo(tmp_path)
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(UserError, match=folder.name):
            run_benchmark("circo", Colours(), "m", options(folder, annotations, allow_missing=True))


def test_an_annotation_cannot_name_pictures_outside_the_folder(tmp_path):
    from mmret.benchmarks.common.image_folder import ImageFolder

    paint(tmp_path / "secret.png", 1)
    (tmp_path / "images").mkdir()
    folder = ImageFolder(tmp_path / "images")
    assert folder.find("../secret.png") is None and folder.find(str(tmp_path / "secret.png")) is None


# -- ties and NaN never help ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("benchmark", WORLDS)
@pytest.mark.parametrize("model, message", [(Constant, "same embedding"), (Broken, "not finite")])
def test_a_collapsed_or_broken_model_is_refused_not_scored_100(tmp_path, benchmark, model, message):
    with pytest.raises(UserError, match=message):
        run_benchmark(benchmark, model(), "m", options(*WORLDS[benchmark](tmp_path)))


def test_candidates_that_tie_with_the_ground_truth_rank_before_it():
    assert order(np.zeros(4)) == [1, 2, 3, 0]
    assert order(np.array([0.5, 0.9, 0.5, 0.1])) == [1, 2, 0, 3]


def test_a_repeated_ground_truth_is_no_competitor():
    assert order(np.array([0.5, 0.5, 0.5]), duplicates=[2]) == [1, 0, 2]
    assert order(np.array([0.5, 0.1, 0.5]), duplicates=[2]) == [0, 2, 1]


def test_genecis_pictures_that_tie_count_against_the_model(tmp_path):
    images, annotations = genecis(tmp_path)
    for path in sorted((images / "val2017").glob("*.jpg"))[1:]:
        paint(path, 5)  # all alike but the first reference: every candidate ties
    run = run_benchmark("genecis", Colours(), "m", options(images, annotations))
    # the candidates are one and the same picture, so none is a competitor; this is the official outcome too
    assert values(run)["change_object R@1"] == 100
    for i, path in enumerate(sorted((images / "val2017").glob("*.jpg"))[1:]):
        paint(path, 5, (12 + i, 10))  # other files that look alike to the model
    run = run_benchmark("genecis", Colours(), "m", options(images, annotations))
    assert values(run)["change_object R@1"] == 0


def test_gallery_pictures_that_tie_with_the_target_rank_before_it(tmp_path):
    images, annotations = circo(tmp_path)
    for i in range(130, 150):
        paint(images / "unlabeled2017" / f"{i:012d}.jpg", 110, (20, i))  # look like the target of query 0
    run = run_benchmark("circo", Colours(), "m", options(images, annotations))
    assert values(run)["Recall@10"] == pytest.approx(75)


# -- protocols --------------------------------------------------------------------------------------------------------


def test_circo_is_run_with_and_without_the_shared_concept(tmp_path):
    encoder = Colours()
    run = run_benchmark("circo", encoder, "m", options(*circo(tmp_path)))
    assert [v.name for v in run.variants] == [COMPOSED, NO_CONCEPT, IMAGE_ONLY, TEXT_ONLY]
    assert any("a thing 0" in t for t in encoder.texts) and any("a thing" not in t for t in encoder.texts)
    assert run.protocol == "circo-1/megapairs"


def test_other_wordings_are_asked_for_and_are_of_the_image_and_the_text(tmp_path):
    world, nearly_blind_to_text = circo(tmp_path), Colours(takes_text=1e-6)
    assert run_benchmark("circo", Colours(), "m", options(*world)).paraphrases == ()
    run = run_benchmark("circo", nearly_blind_to_text, "m", options(*world, paraphrases=True))
    values = {v.name: dict(v.metrics()) for v in run.variants}
    assert values[IMAGE_ONLY] != values[TEXT_ONLY] and len(run.paraphrases) > 1
    assert all(dict(wording.metrics()) == values[IMAGE_ONLY] for wording in run.paraphrases)


def test_the_protocol_is_shown_beside_every_number(tmp_path):
    run = run_benchmark("cirr", Colours(), "m", options(*cirr(tmp_path), template="sentence"))
    assert "protocol cirr-1/sentence" in markdown({"m": run})
    assert all("[cirr-1/sentence]" in b for b in evaluation_rows(run, "m")["benchmark"].to_pylist())
    with pytest.raises(UserError, match="no template"):
        run_benchmark("cirr", Colours(), "m", options(*cirr(tmp_path), template="megapairs"))


def test_fashioniq_needs_both_captions(tmp_path):
    from .conftest import dump, load

    images, annotations = fashioniq(tmp_path)
    path = annotations / "captions" / "cap.dress.val.json"
    entries = load(path)
    entries[0]["captions"] = entries[0]["captions"][:1]
    dump(path, entries)
    with pytest.raises(UserError, match="two captions"):
        run_benchmark("fashioniq", Colours(), "m", options(images, annotations))


def test_fashioniq_smaller_gallery_is_named_in_split_and_notes(tmp_path):
    world = fashioniq(tmp_path)
    original = run_benchmark("fashioniq", Colours(), "m", options(*world))
    union = run_benchmark("fashioniq", Colours(), "m", options(*world, gallery="union"))
    assert (original.gallery, union.gallery) == (180, 24)
    assert union.name == "fashioniq.val-union" and "not the original split" in markdown({"m": union})


def test_mmeb_cuts_instructions_off_for_a_fused_encoder_and_passes_them_to_one_that_takes_them(tmp_path):
    world = mmeb(tmp_path)
    plain, instructed = Colours(), InstructedColours()
    assert run_benchmark("mmeb", plain, "m", options(*world)).protocol == "mmeb-v1.1/content"
    assert run_benchmark("mmeb", instructed, "n", options(*world, template="content")).protocol == "mmeb-v1.1/content"
    instructed.instructions.clear()
    with pytest.raises(UserError, match="no template 'sentence' for mmeb: there are .*content.*instructed|instructed.*content"):
        run_benchmark("mmeb", plain, "m", options(*world, template="sentence"))
    assert run_benchmark("mmeb", instructed, "n", options(*world)).protocol == "mmeb-v1.1/instructed"
    seen = plain.texts + instructed.texts
    assert not any("<|image_1|>" in t or t != t.strip() for t in seen)
    assert not any("Represent" in t or "Given an image" in t for t in plain.texts)
    assert "Given an image, find a similar everyday image with the described changes:" in instructed.instructions


def test_unscored_splits_say_so_and_published_test_rows_are_not_compared_with_val(tmp_path):
    run = run_benchmark("circo", Colours(), "m", options(*circo(tmp_path)))
    text = markdown({"m": run})
    assert "published rows are of the test split: not comparable with val" in text
    assert "not CIRCO's 123403" in text


def test_comparison_has_baselines_and_published_rows(tmp_path):
    runs = {"ours": run_benchmark("fashioniq", Colours(), "m", options(*fashioniq(tmp_path)))}
    metrics, rows = comparison(runs)
    table = dict(rows)
    assert metrics == ["mean R@10", "mean R@50"]
    assert table["MMRet-Base, published (val)"] == [31.9, 53.4]
    assert {"ours, composed (val)", "ours, image only (val)", "ours, text only (val)"} <= set(table)


# -- submissions ------------------------------------------------------------------------------------------------------


def test_test_splits_give_submission_files_that_the_servers_take(tmp_path):
    images, annotations = circo(tmp_path)
    run = run_benchmark("circo", Colours(), "m", options(images, annotations / "test.json"))
    assert run.split == "test" and not any(v.values for v in run.variants)
    paths = write_files(run, "m", tmp_path / "out")
    assert not any(p.name == "comparison.png" for p in paths)
    made = json.loads((tmp_path / "out" / "circo_test.json").read_text())
    assert list(made) == ["0", "1", "2", "3"] and all(len(set(ids)) == 50 for ids in made.values())
    assert "targets of this split are hidden" in markdown({"m": run})


def test_cirr_submission_has_two_files_without_references(tmp_path):
    images, annotations = cirr(tmp_path)
    run = run_benchmark("cirr", Colours(), "m", options(images, annotations / "captions" / "cap.rc2.test1.json"))
    recall, subset = (run.submissions[f"cirr_test1_{m}.json"] for m in ("recall", "recall_subset"))
    assert (recall["version"], recall["metric"], subset["metric"]) == ("rc2", "recall", "recall_subset")
    assert all(len(recall[str(12060 + i)]) == 50 and len(subset[str(12060 + i)]) == 3 for i in range(4))
    assert not any(f"dev-{i}-0-img0" in recall[str(12060 + i)] + subset[str(12060 + i)] for i in range(4))


def test_a_partial_run_makes_no_submission(tmp_path):
    images, annotations = circo(tmp_path)
    (images / "unlabeled2017" / "000000000150.jpg").unlink()
    run = run_benchmark("circo", Colours(), "m", options(images, annotations / "test.json", allow_missing=True))
    assert not run.submissions


# -- command ----------------------------------------------------------------------------------------------------------


def test_command_prints_table_or_json_and_writes_everything(tmp_path, checkpoint, one_thread):
    from mmret.cli.benchmark import benchmark

    app = typer.Typer()
    app.command()(benchmark)
    images, annotations = cirr(tmp_path)
    arguments = ["cirr", "--images", images, "--annotations", annotations, "--checkpoint", checkpoint,
                 "--lake", tmp_path / "lake", "--out", tmp_path / "out", "--recipe", "tiny",
                 "--paraphrases"]  # fmt: skip
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.exception
    assert "tiny, composed" in result.stdout and "MMRet-Base" in result.stdout and "paraphrases" in result.stdout
    assert {"scores.json", "table.md", "comparison.png"} <= {p.name for p in (tmp_path / "out").iterdir()}
    made = json.loads(CliRunner().invoke(app, [*map(str, arguments), "--json"]).stdout)
    assert set(made["scores"]) == {COMPOSED, IMAGE_ONLY, TEXT_ONLY}
    assert made["protocol"] == "cirr-1/caption"
