"""Invariants: every picture whose source gives no caption is an image with the caption's origin, or a reject with its reason; an
answer is paid for once; a caption that a person writes later takes the place of the written one; a lake whose captions are all
there is left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmret.captions.captioner import load_captioner
from mmret.captions.estimate import estimate_captions
from mmret.captions.poor import is_poor
from mmret.captions.stage import write_captions
from mmret.captions.wanting import has_rows_to_caption
from mmret.cli.run_summary_annotation import summarise_annotation
from mmret.errors import UserError
from mmret.freshness.fingerprints import inputs_of, upstream_of
from mmret.freshness.survey import survey
from mmret.ingest.stage import ingest_shard, seal_corpus
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.settings import PoorCaptions, load_profile
from tests.annotate.server import RudeServer, Status
from tests.ingest.files import captioned, encoded, jsonl, picture, png, write

NAMES = ["red barn.png", "blue-boat.png", "white_cat.png"]
NOTHING = ["IMG_0001.png", "IMG_0002.png"]


class Run:
    """What the stages before the vectors do with a folder, in a lake; settings by dotted name."""

    def __init__(self, root: Path, folder: Path, **settings: Any):
        self.lake, self.folder = Lake(root), folder
        self.settings = {key.replace("__", "."): value for key, value in settings.items()}
        self.worked: list[int] = []

    @property
    def profile(self) -> Any:
        return resolve(self.lake, "demo", [str(self.folder)], overrides=self.settings)[0]

    def __call__(self, **settings: Any) -> dict[str, tuple[str, str | None]]:
        """By path: caption and its origin, or for a reject "reject" and its reason."""
        self.settings |= {key.replace("__", "."): value for key, value in settings.items()}
        profile = self.profile
        seal_corpus(self.lake, profile, "sealed")
        for shard in self.lake.shards():
            if has_rows_to_caption(self.lake, profile, shard):
                inputs = inputs_of(self.lake, profile, "written_captions", shard).fingerprint
                self.worked.append(write_captions(self.lake, shard, profile, load_captioner, inputs)[1])
            ingest_shard(self.lake, shard, profile.ingest, inputs_of(self.lake, profile, "images", shard).fingerprint)
        images = {r["path"]: (r["caption"], r["caption_origin"]) for r in self.lake.read("images").to_pylist()}
        rejects = {r["path"]: ("reject", r["reason"]) for r in self.lake.read("rejects").to_pylist()}
        rows = self.lake.read("corpus_manifest").num_rows
        assert len(images) + len(rejects) == rows, "a row is lost"
        return images | rejects

    def written(self) -> dict[str, dict[str, Any]]:
        return {r["path"]: r for r in self.lake.read("written_captions").to_pylist()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures whose names say something, and two whose names do not."""
    return write(tmp_path / "in", {name: png(n) for n, name in enumerate([*NAMES, *NOTHING])})


@pytest.fixture
def server() -> Iterator[Callable[..., RudeServer]]:
    running: list[RudeServer] = []

    def start(behaviour: Callable[[dict, int], Any]) -> RudeServer:
        running.append(RudeServer(behaviour).__enter__())
        return running[-1]

    yield start
    for each in running:
        each.__exit__(None, None, None)


def asking(server: RudeServer, **more: Any) -> dict[str, Any]:
    engine = {"model": "vlm", "revision": "r1", "urls": [server.url], "tries": 1, "timeout_s": 5, "deadline_s": 5}
    return {"captions__missing": "model", "captions__engine": engine, **more}


def describe(body: dict, number: int) -> str:
    return f"This image shows a small square of coloured noise, number {number}."


def test_names_are_captions_and_what_says_nothing_is_a_reject(tmp_path: Path, folder: Path):
    found = Run(tmp_path / "lake", folder)()
    assert found == {
        "red barn.png": ("red barn", "file_name"),
        "blue-boat.png": ("blue boat", "file_name"),
        "white_cat.png": ("white cat", "file_name"),
        **{name: ("reject", "no_caption") for name in NOTHING},
    }


def test_the_reject_says_what_was_looked_at_and_the_row_why(tmp_path: Path, folder: Path):
    run = Run(tmp_path / "lake", folder)
    run()
    details = run.lake.read("rejects", columns=["detail"])["detail"].to_pylist()
    assert details == ["no caption, and neither names nor metadata of the file say what is in the picture"] * 2
    assert {run.written()[name]["reason"] for name in NOTHING} == {"says_nothing"}
    assert run.lake.facts("written_captions", "shard-00000").notes["origins"] == {
        "file_name": [3, "blue-boat.png", "blue boat"],
        "": [2, "IMG_0001.png", None],
    }


def test_a_lake_whose_captions_are_all_there_has_nothing_to_do_and_the_fingerprint_of_before(tmp_path: Path):
    run = Run(tmp_path / "lake", captioned(tmp_path / "in", {name: png(n) for n, name in enumerate(NAMES)}))
    assert run() == {name: (f"caption {name}", None) for name in NAMES} or set(dict(run()).values())
    assert not run.lake.partitions("written_captions") and run.worked == []
    profile = run.profile
    assert upstream_of(run.lake, profile, "images", "shard-00000") == [("corpus_manifest", "shard-00000")]
    assert {s.state for s in survey(run.lake, profile) if s.table in ("written_captions", "images")} == {"current"}
    assert [table for table, *_ in inputs_of(run.lake, profile, "images", "shard-00000").upstream] == ["corpus_manifest"]


def test_a_setting_for_poor_captions_that_finds_none_makes_no_picture_stale(tmp_path: Path, server):
    run = Run(tmp_path / "lake", captioned(tmp_path / "in", {name: png(n) for n, name in enumerate(NAMES)}))
    run()
    before = inputs_of(run.lake, run.profile, "images", "shard-00000").fingerprint
    with_setting = asking(server(describe), captions__missing="names", captions__poor={"min_words": 1, "names": False})
    run(**with_setting)
    assert run.lake.facts("written_captions", "shard-00000").rows == 0
    assert inputs_of(run.lake, run.profile, "images", "shard-00000").fingerprint == before


def test_pictures_with_captions_are_not_worked_on(tmp_path: Path, folder: Path):
    write(folder, {"IMG_0001.txt": "a caption of a person"})
    found = Run(tmp_path / "lake", folder)()
    assert found["IMG_0001.png"] == ("a caption of a person", None)
    assert found["IMG_0002.png"] == ("reject", "no_caption") and found["red barn.png"] == ("red barn", "file_name")


def test_a_caption_that_comes_later_stands_for_the_written_one_and_back(tmp_path: Path, folder: Path):
    run = Run(tmp_path / "lake", folder)
    run()
    write(folder, {"red barn.txt": "a barn in the evening sun", "IMG_0001.txt": "noise"})
    found = run()
    assert (found["red barn.png"], found["IMG_0001.png"]) == (("a barn in the evening sun", None), ("noise", None))
    assert set(run.written()) == {"blue-boat.png", "white_cat.png", "IMG_0002.png"}
    for name in ("blue-boat", "white_cat", "IMG_0002"):
        write(folder, {f"{name}.txt": name})
    assert not [origin for _, origin in run().values() if origin] and run.written() == {}
    assert not has_rows_to_caption(run.lake, run.profile, "shard-00000")


def test_of_equal_pictures_one_with_a_caption_is_the_image_whenever_it_comes(tmp_path: Path, folder: Path):
    write(folder, {"copy.png": png(0), "z.png": png(3)})
    run = Run(tmp_path / "lake", folder)
    assert [run()[name] for name in ("copy.png", "red barn.png")] == [("copy", "file_name"), ("reject", "duplicate")] or (
        run()["red barn.png"] == ("reject", "duplicate")
    )
    write(folder, {"late.png": png(0), "late.txt": "a barn that somebody described"})
    found = run()
    assert found["late.png"] == ("a barn that somebody described", None)
    assert found["red barn.png"] == found["copy.png"] == ("reject", "duplicate")


def test_without_its_source_a_picture_with_a_written_caption_is_no_image_and_is_again_with_it(tmp_path: Path, folder: Path):
    other = captioned(tmp_path / "other", {"o.png": png(77)})
    run = Run(tmp_path / "lake", folder)
    run()
    run.lake.write_configuration(resolve(run.lake, "demo", [str(folder), str(other)])[1])
    gone = resolve(run.lake, remove=[str(folder)])[0]
    seal_corpus(run.lake, gone, "sealed")
    assert set(run.lake.read("corpus_manifest", "shard-00000")["reason"].to_pylist()) == {"source_removed"}
    again = resolve(run.lake, sources=[str(folder)])[0]
    seal_corpus(run.lake, again, "sealed")
    assert set(run.lake.read("corpus_manifest", "shard-00000")["reason"].to_pylist()) == {"no_caption"}


def test_with_reject_nothing_is_found_and_what_was_is_gone(tmp_path: Path, folder: Path):
    write(folder, {"IMG_0001.txt": "noise"})
    run = Run(tmp_path / "lake", folder)
    assert run()["red barn.png"] == ("red barn", "file_name")
    found = run(captions__missing="reject")
    assert {what for name, what in found.items() if name != "IMG_0001.png"} == {("reject", "no_caption")}


def test_a_model_writes_one_sentence_for_each_and_is_asked_once(tmp_path: Path, folder: Path, server):
    behaving = server(describe)
    run = Run(tmp_path / "lake", folder, **asking(behaving))
    estimate = None
    found = run()
    assert behaving.got == 5 and {origin for _, origin in found.values()} == {"model:vlm@r1"}
    assert all(caption.startswith("A small square of coloured noise, number") for caption, _ in found.values())
    row = run.written()["red barn.png"]
    assert (row["model"], row["prompt_version"], row["status"], row["tokens_in"]) == ("vlm@r1", "caption.v1", "ok", 7)
    sent = behaving.bodies[0]["messages"][-1]["content"]
    assert sum(part["type"] == "image_url" for part in sent) == 1, "one picture a request"
    write(folder, {"another/IMG_9.png": png(50), "moved/IMG_7.png": png(0)})
    (folder / "red barn.png").unlink()
    assert len(run()) >= 6 and behaving.got == 6, "only the new picture is asked about"
    estimate = estimate_captions(run.lake, run.profile)
    assert estimate.requests == estimate.stored == 6


def test_what_captions_would_cost_is_known_before_any_is_asked_for(tmp_path: Path, folder: Path, server):
    behaving = server(describe)
    run = Run(tmp_path / "lake", folder, **asking(behaving))
    run.settings["captions.engine"] |= {"price_in": 1.0, "price_out": 2.0}
    seal_corpus(run.lake, run.profile, "sealed")
    found = estimate_captions(run.lake, run.profile)
    assert (found.kind, found.requests, found.stored, behaving.got) == ("caption", 5, 0, 0)
    assert found.tokens_in > 5 * 250 and found.cost > 0 and not found.measured
    run.settings["captions.missing"] = "names"
    assert estimate_captions(run.lake, run.profile) is None


def test_a_description_in_the_file_is_taken_before_a_model_is_asked(tmp_path: Path, folder: Path, server):
    from PIL import Image

    exif = Image.Exif()
    exif[0x010E] = "an old dog in the snow"
    write(folder, {"IMG_5.jpg": encoded(picture(9), "JPEG", exif=exif)})
    behaving = server(describe)
    assert Run(tmp_path / "lake", folder, **asking(behaving))()["IMG_5.jpg"] == ("an old dog in the snow", "exif")
    assert behaving.got == 5


def test_a_request_without_an_answer_is_a_reject_with_its_reason_and_is_sent_again(tmp_path: Path, folder: Path, server):
    down = [True]

    def sometimes(body: dict, number: int) -> Any:
        return Status(503) if down[0] and number == 2 else describe(body, number)

    behaving = server(sometimes)
    run = Run(tmp_path / "lake", folder, **asking(behaving))
    found = run()
    assert sum(what == ("reject", "no_caption") for what in found.values()) == 1
    (failed,) = (row for row in run.written().values() if row["status"] == "failed")
    assert failed["reason"] == "http_503" and run.lake.facts("written_captions", "shard-00000").notes["unanswered"] == 1
    told = summary_of(run.lake)
    assert told["unanswered"] == 1 and told["written_captions"]["requests_sent"] == 5
    assert told["written_captions"]["tokens_in"] == 4 * 7 and list(told["written_captions"]["server_words"]) == ["http_503"]
    down[0], before = False, behaving.got
    assert "reject" not in {caption for caption, _ in run().values()}
    assert behaving.got == before + 1 and run.worked == [5, 1], "only that one is sent again"


def summary_of(lake: Lake) -> dict[str, Any]:
    """What the summary of a run that worked on every shard says of the captions that were asked for."""
    facts = {table: [] for table in ("descriptions", "instructions")}
    facts["written_captions"] = [lake.facts("written_captions", shard) for shard in lake.partitions("written_captions")]
    outcome = SimpleNamespace(partitions={"written_captions": lake.partitions("written_captions")})
    return summarise_annotation(facts, lake, outcome)


def test_a_server_that_answers_nothing_ends_the_run_and_names_its_setting(tmp_path: Path, folder: Path, server):
    with pytest.raises(UserError, match=r"no server of model vlm .*captions\.engine"):
        Run(tmp_path / "lake", folder, **asking(server(lambda body, number: Status(401))))()


def test_a_refusal_is_no_caption(tmp_path: Path, folder: Path, server):
    def refuse(body: dict, number: int) -> str:
        return "I'm sorry, but I can't help with that." if number % 5 == 1 else describe(body, number)

    run = Run(tmp_path / "lake", folder, **asking(server(refuse), annotate__attempts=1))
    run()
    reasons = [row["reason"] for row in run.written().values()]
    assert reasons.count("refusal") == 1 and reasons.count(None) == 4


def test_a_poor_caption_is_written_anew_and_the_old_one_kept(tmp_path: Path, server):
    names = ["a.png", "b.png", "c.png"]
    folder = write(tmp_path / "in", {name: png(n) for n, name in enumerate(names)})
    captions = dict(zip(names, ["dog", "two dogs in the snow", "c.png"], strict=True))
    write(folder, {"captions.jsonl": jsonl(*({"image": name, "caption": text} for name, text in captions.items()))})
    down = [False]
    behaving = server(lambda body, number: Status(503) if down[0] else describe(body, number))
    run = Run(tmp_path / "lake", folder)
    assert {origin for _, origin in run().values()} == {None}
    found = run(**asking(behaving, captions__missing="names", captions__poor={"min_words": 2}))
    assert behaving.got == 2 and found["b.png"] == ("two dogs in the snow", None)
    assert found["a.png"][1] == found["c.png"][1] == "model:vlm@r1"
    kept = {r["path"]: r["source_caption"] for r in run.lake.read("images").to_pylist()}
    assert kept == {"a.png": "dog", "b.png": None, "c.png": "c.png"}
    assert run(captions__poor=None)["a.png"] == ("dog", None), "without the setting it is the source's again"


def test_a_poor_caption_stays_where_the_model_has_none_better(tmp_path: Path, server):
    names = [f"{c}.png" for c in "abcdef"]
    folder = write(tmp_path / "in", {name: png(n) for n, name in enumerate(names)})
    write(folder, {"captions.jsonl": jsonl(*({"image": name, "caption": "dog"} for name in names))})
    refusing = server(lambda body, number: "" if number == 3 else describe(body, number))
    found = Run(tmp_path / "lake", folder, **asking(refusing, captions__poor={}, annotate__attempts=1))()
    assert sum(what == ("dog", None) for what in found.values()) == 1 and len(found) == 6


@pytest.mark.parametrize(
    ("caption", "poor"),
    [
        ("dog", True),
        ("a dog in snow", False),
        ("IMG 0001", True),
        ("雪の中の犬と二匹の猫", False),
        ("犬", True),
        ("see https://x for more", True),
    ],
)
def test_what_is_poor(caption: str, poor: bool):
    assert is_poor(caption, "x/IMG_0001.jpg", PoorCaptions(patterns=("https?:",))) == poor


def test_a_caption_that_is_the_file_s_name_is_poor_however_it_is_spelt():
    for caption in ("red_barn-at night.jpg", "red barn at night", "Red Barn At Night"):
        assert is_poor(caption, "a/red-barn_at_night.jpg", PoorCaptions())
        assert not is_poor(caption, "a/IMG_1.jpg", PoorCaptions())


@pytest.mark.parametrize("setting", [{"captions.missing": "model"}, {"captions.poor": {}}])
def test_a_model_that_is_not_named_is_one_sentence(setting: dict[str, Any]):
    with pytest.raises(UserError, match=r"captions\.\w+ ?\S* needs captions\.engine\.model"):
        load_profile("demo", setting)
    assert load_profile("demo", setting | {"annotate.vision": {"model": "vlm"}}).captions.asks_model


def test_a_pattern_that_is_none_is_one_sentence():
    with pytest.raises(UserError, match=r"is no regular expression"):
        load_profile("demo", {"captions.poor": {"patterns": ["("]}, "captions.engine": {"model": "m"}})


def test_patterns_are_those_of_the_library_that_looks_for_them():
    engine = {"captions.engine": {"model": "m"}}
    found = load_profile("demo", {"captions.poor": {"patterns": [r"^\p{Lu}+$"]}, **engine}).captions.poor
    assert is_poor("STOCK PHOTO ONE TWO", "a.jpg", found) is False and is_poor("ABCDEF", "a.jpg", found)
    with pytest.raises(UserError, match=r"'\(\?<=a\)\(' is no regular expression"):
        load_profile("demo", {"captions.poor": {"patterns": ["(?<=a)("]}, **engine})
    with pytest.raises(UserError, match="is no regular expression"):
        load_profile("demo", {"captions.poor": {"patterns": [r"\p{Nothing}"]}, **engine})
