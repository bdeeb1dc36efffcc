"""examples/: the method section in plain Python, each script on what the one before wrote, without Dagster and without a lake."""

import ast
import importlib.util
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mmret.errors import UserError
from mmret.schemas import DESCRIPTIONS, INSTRUCTIONS, PAIRS, TRIPLETS
from tests.annotate.server import RudeServer
from tests.conftest import CHECKOUT
from tests.small_runs import TINY

EXAMPLES = CHECKOUT / "examples"
SCRIPTS = ("mine", "annotate", "train")


def script(name: str):
    specification = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """What ``mine.py`` wrote of 150 scenes with tiny towers. Read only."""
    folder = tmp_path_factory.mktemp("examples") / "work"
    script("mine").main(["--images", "shapes:150?seed=3", "--out", str(folder), *(part for s in TINY for part in ("--set", s))])
    return folder


def linked(work: Path, folder: Path) -> Path:
    """A folder of its own with what ``work`` has."""
    folder.mkdir()
    for path in work.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def test_the_three_scripts_make_a_measured_retriever_of_a_folder_of_files_alone(work, tmp_path, capsys):
    folder = linked(work, tmp_path / "work")
    script("annotate").main(["--work", str(folder)])
    settings = ("recipes.demo.steps=20", "recipes.demo.batch_size=32", "recipes.demo.evaluate_every=null")
    script("train").main(["--work", str(folder), *(part for s in settings for part in ("--set", s))])

    images, pairs, triplets = (pq.read_table(folder / f"{name}.parquet") for name in ("images", "pairs", "triplets"))
    assert images.num_rows == 150 and pairs.schema == PAIRS and triplets.schema == TRIPLETS
    assert pairs.num_rows == triplets.num_rows > 50, "no pair is lost: each has texts from the captions"
    assert set(pc.unique(triplets["split"]).to_pylist()) == {"train", "test"}
    known = set(images["image_id"].to_pylist())
    assert all(
        row["hard_negatives"][0] == row["query_id"] and known.issuperset(row["hard_negatives"]) for row in triplets.to_pylist()
    )

    said = capsys.readouterr().out.splitlines()
    assert f"{pairs.num_rows} triplets in {folder}" in said[0] and (folder / "checkpoint" / "config.json").is_file()
    table = {line.split()[0]: [float(value) for value in line.split()[1:]] for line in said[-2:]}
    assert list(table) == ["untrained", "trained"]
    assert all(len(row) == 4 and row == sorted(row) and row[-1] <= 100 for row in table.values()), "recall grows with k"


def test_one_argument_asks_a_server_instead_and_a_second_run_asks_nothing_again(work, tmp_path):
    def behaviour(body, number):
        schema = str(body.get("response_format", ""))
        return (
            '{"instructions": ["make it red", "turn it to the left", "add a ball"]}' if "instructions" in schema else "One is red."
        )

    folder = linked(work, tmp_path / "work")
    pairs = pq.read_table(folder / "pairs.parquet").slice(0, 8)
    (folder / "pairs.parquet").unlink()
    pq.write_table(pairs, folder / "pairs.parquet")
    with RudeServer(behaviour) as server:
        for _ in range(2):
            script("annotate").main(["--work", str(folder), "--server", "a-model", server.url])
            asked = len(server.bodies)
    descriptions, instructions = (pq.read_table(folder / f"{name}.parquet") for name in ("descriptions", "instructions"))
    assert descriptions.schema == DESCRIPTIONS and instructions.schema == INSTRUCTIONS
    assert descriptions.num_rows == instructions.num_rows == 8 and "a-model" in descriptions["model"][0].as_py()
    assert asked == server.got


def test_a_picture_that_cannot_be_used_is_a_reject_with_a_lake_s_reason_and_the_rest_is_read(tmp_path):
    from PIL import Image

    from mmret.ingest.in_memory import read_source

    for name, colour in (("a", "red"), ("b", "blue"), ("c", "red"), ("d", "green")):
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{name}.png")
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"picture {name}")
    (tmp_path / "e.png").write_text("<html>no picture</html>")
    (tmp_path / "e.txt").write_text("a page")
    images, rejects = read_source(str(tmp_path))
    assert images["path"].to_pylist() == ["a.png", "b.png"] and images["caption"].to_pylist() == ["picture a", "picture b"]
    assert {r["path"]: r["reason"] for r in rejects.to_pylist()} == {
        "c.png": "duplicate",
        "d.png": "no_caption",
        "e.png": "not_an_image",
    }
    with pytest.raises(UserError, match="there is nothing at"):
        read_source(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_a_page_long_and_needs_no_dagster(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {getattr(node, "module", None) or node.names[0].name for node in imports}
    others = [module for module in modules if module.startswith(("dagster", "assets", "resources", "mmret.lake"))]
    assert len(text.splitlines()) <= 80 and not others
    assert f"python examples/{name}.py" in (EXAMPLES / "README.md").read_text()
