"""Cards say what the tables say, are valid for Hugging Face without network, and take no text of the corpus for markup."""

import re
import shutil
from collections import Counter

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from typer.testing import CliRunner

from mmret.annotate.quality.coverage import kinds_shown
from mmret.cli import app
from mmret.curation.decisions import DecisionLog
from mmret.errors import UserError
from mmret.export.card_facts import gather_facts, source_label
from mmret.export.data_card import write_data_card
from mmret.export.huggingface import export_huggingface
from mmret.export.markdown import code, picture, plain, table, to_html
from mmret.export.model_card import write_model_card
from mmret.export.webdataset import export_webdataset
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from tests.browser import Watched, chromium
from tests.export.conftest import profile
from tests.hostile import HOSTILE


@pytest.fixture(scope="module")
def lake(small_lake) -> Lake:
    return Lake(small_lake[0])


def rendered(text: str) -> list:
    """Tokens of GitHub-flavoured Markdown with raw HTML switched on: what a card must withstand."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(text)
    return [t for token in tokens for t in (token, *(token.children or []))]


MARKUP = {"html_inline", "html_block", "link_open", "image", "em_open", "strong_open", "s_open", "heading_open", "fence", "hr"}


@pytest.mark.parametrize(
    "bad", [*HOSTILE, "a\\", "`x`", "``` ```", "http://evil.invalid www.evil.invalid", "x" * 900, "*a* _b_ ~~c~~ $d$"]
)
def test_no_text_is_markup_in_a_cell(bad):
    cells = rendered(table(["a", "b"], [[plain(bad), code(bad)]]))
    kinds = {t.type for t in cells}
    assert not kinds & MARKUP
    assert sum(t.type == "td_open" for t in cells) == 2
    page = to_html(table(["a"], [[plain(bad)]]), bad, {})
    assert len(re.findall(r"<(?:script|img|svg|a)\b", page)) == 0


def test_a_card_finds_its_pictures_whatever_its_name():
    name = "a card[x]#?%20 (1)é\udcff_pictures/b.png"
    assert " " not in picture(name, "b").partition("(")[2]
    assert 'src="data:image/png;base64,' in to_html(picture(name, "b"), "title", {name: b"\x89PNG"})


def test_the_data_card_says_what_the_tables_hold(lake, tmp_path):
    card = write_data_card(lake, profile(lake), tmp_path / "card.md").read_text()
    facts = gather_facts(lake, profile(lake))
    triplets = lake.read("triplets")
    assert f"{triplets.num_rows:,} triplets" in card and f"{lake.read('images').num_rows:,} pictures" in card
    assert facts.texts == sum(map(len, triplets["texts"].to_pylist()))
    assert facts.queries == len(set(triplets["query_id"].to_pylist()))
    assert facts.splits == {s: triplets["split"].to_pylist().count(s) for s in facts.splits}
    assert facts.tasks == Counter(lake.read("tasks")["task"].to_pylist()) and "rows of text to image" in card
    for signal, counts in facts.scores.items():
        assert sum(n for _, n in counts) == sum(signal in s for s in triplets["signals"].to_pylist())
    model = lake.read("instructions")["model"][0].as_py()
    assert plain(model) in card and "shapes" in card and "No triplet was reviewed" in card
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", card):
        assert (tmp_path / name).is_file()
    assert str(lake.root) not in card
    assert write_data_card(lake, profile(lake), tmp_path / "again.md").read_text().replace("again_", "card_") == card


def test_the_data_card_says_what_the_pairs_change(lake, tmp_path):
    card = write_data_card(lake, profile(lake), tmp_path / "card.md").read_text()
    changes = gather_facts(lake, profile(lake)).changes
    assert changes["pairs"] == lake.read("pairs").num_rows
    section = card.split("## What the pairs change")[1].split("\n## ")[0]
    assert f"of {changes['pairs']:,} pairs have captions that tell a difference" in section
    assert all(
        f"| {plain(name)} | {100 * there:.1f} | {100 * one_sided:.1f} |" in section
        for name, there, one_sided in kinds_shown(changes)
    )


def test_a_card_tells_of_the_settings_of_its_run_and_not_of_those_in_the_lake(lake, tmp_path):
    run = resolve(lake, overrides={"mine.k": 77, "annotate.language": "German"})[0]
    card = write_data_card(lake, run, tmp_path / "card.md").read_text()
    assert re.search(r"mine\.k.*\b77\b", card) and "German" in card
    assert not re.search(r"mine\.k.*\b77\b", write_data_card(lake, profile(lake), tmp_path / "card.md").read_text())


def test_a_card_names_a_folder_and_not_where_it_lies():
    assert source_label("/home/ann/secret/photos") == "photos" and source_label("shapes:9?seed=1") == "shapes:9?seed=1"


def test_decisions_are_told(small_lake, tmp_path):
    shutil.copytree(small_lake[0], tmp_path / "lake")
    own = Lake(tmp_path / "lake")
    DecisionLog(own, "ann").add(own.read("triplets")["pair_id"].to_pylist()[:7], "rejected")
    card = write_data_card(own, profile(own), tmp_path / "card.md").read_text()
    assert "7 triplets rejected" in card and "No triplet was reviewed" not in card


@pytest.mark.parametrize("write", [export_huggingface, export_webdataset])
def test_the_card_of_an_export_is_valid_for_hugging_face(lake, tmp_path, write):
    made = write(lake, profile(lake), tmp_path / "out")
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    data = card.data.to_dict()
    assert data["pretty_name"] and data["license"] == ["unknown"] or data["license"]
    assert data["size_categories"] == ["n<1K"] and sum(made.count(*key) for key in made.rows) < 1000
    configs = {c["config_name"]: c for c in data.get("configs", [])}
    assert set(configs) == ({"triplets", "images"} if write is export_huggingface else set())
    for config in configs.values():
        for files in config["data_files"]:
            assert list((tmp_path / "out").glob(files["path"]))


def test_the_model_card_carries_the_results(small_lake, tmp_path):
    shutil.copytree(small_lake[0], tmp_path / "lake")
    own = Lake(tmp_path / "lake")
    path = write_model_card(own, profile(own), "demo")
    assert path == own.root / "checkpoints" / "demo" / "README.md"
    data = ModelCard.load(path).data.to_dict()
    name, results = model_index_to_eval_results(data["model-index"])
    told = {(r.dataset_name, r.metric_type): r.metric_value for r in results}
    rows = [r for r in own.read("evaluations").to_pylist() if r["recipe"] == "demo"]
    assert name == "mmret-clip-demo" and told
    assert all(round(r["value"], 3) == told[r["benchmark"], r["metric"]] for r in rows if (r["benchmark"], r["metric"]) in told)
    with pytest.raises(UserError, match="no checkpoint"):
        write_model_card(own, profile(own), "../demo")
    from mmret.retriever.models.clip import ClipRetriever

    assert ClipRetriever.load(path.parent).dim  # the folder is still what it was


def test_the_model_card_says_how_many_rows_of_each_task_a_mixture_was_trained_on(small_lake, tmp_path):
    shutil.copytree(small_lake[0], tmp_path / "lake")
    own = Lake(tmp_path / "lake")
    heading = "| kind of query | rows | seen in training |"
    assert heading not in write_model_card(own, profile(own), "demo").read_text(), "composed alone"
    facts = own.facts("checkpoints", "demo")
    tasks = {"composed": {"rows": 1300, "seen": 6400}, "text_to_text": {"rows": 7, "seen": 640}}
    own.write("checkpoints", "demo", own.read("checkpoints", "demo"), facts.inputs, **facts.notes | {"tasks": tasks})
    card = write_model_card(own, profile(own), "demo").read_text()
    assert heading in card and "| image + text to image | 1,300 | 6,400 |" in card and "| text to text | 7 | 640 |" in card


def test_a_run_writes_the_model_card(lake):
    assert "Results" in (lake.root / "checkpoints" / "demo" / "README.md").read_text()


def test_front_matter_cannot_be_written_by_the_corpus(hostile_lake, tmp_path):
    own = Lake(hostile_lake)
    export_huggingface(own, profile(own), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    data = yaml.safe_load(text.split("---\n")[1])
    assert set(data["license"]) <= {"other", "unknown", "mit"} and data["pretty_name"].startswith("Composed-retrieval")
    tokens = rendered(text.split("---\n", 2)[2])
    assert not {t.type for t in tokens} & {"html_inline", "html_block"}
    assert all(t.attrs["href"].startswith("https://arxiv.org") for t in tokens if t.type == "link_open")


def test_the_command_writes_both_cards_and_says_what_is_wrong(lake, tmp_path):
    def call(*more: str):
        done = CliRunner().invoke(app, ["card", "--lake", str(lake.root), *more])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception

    call("--out", str(tmp_path / "card.html"))
    call("--recipe", "demo", "--out", str(tmp_path / "model.md"))
    assert (tmp_path / "card.html").read_text().startswith("<!doctype html>")
    assert "## Results" in (tmp_path / "model.md").read_text()
    with pytest.raises(UserError, match="--out"):
        call()
    with pytest.raises(UserError, match=".md or .html"):
        call("--out", str(tmp_path / "card.pdf"))
    with pytest.raises(UserError, match="mmret run"):
        write_data_card(Lake(tmp_path / "none"), profile(Lake(tmp_path / "none")), tmp_path / "c.md")


@pytest.mark.slow
def test_a_hostile_card_in_a_browser_is_text_and_pictures(hostile_lake, tmp_path):
    path = write_data_card(Lake(hostile_lake), profile(Lake(hostile_lake)), tmp_path / "card.html")
    with chromium() as browser:
        watched = Watched(browser, "file:")
        watched.page.goto(path.as_uri())
        assert watched.page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
        assert HOSTILE[0] in watched.page.inner_text("body")
        watched.unharmed()
