"""README, AGENTS.md and docs/: the graph drawn is the graph there is, every file named exists, every command and stage is found."""

import re
from pathlib import Path

import pytest

from assets.definitions import defs
from mmret.stages import TABLE
from tests.cli.test_command_flags import documented
from tests.conftest import CHECKOUT

README = (CHECKOUT / "README.md").read_text()
NAMES = ("README.md", "AGENTS.md", "CONTRIBUTING.md", "deploy/README.md")
PAGES = [*(CHECKOUT / name for name in NAMES), *sorted((CHECKOUT / "docs").glob("*.md"))]
ROOTS = "mmret|assets|resources|tests|bench|docs|dagster_home|deploy|examples"


def tree() -> list[str]:
    """Paths of the annotated tree, parents joined: ``mmret/annotate/quality/``."""
    paths, parents = [], []
    block = next(block for block in README.split("```") if block.startswith("\nmmret/ "))
    for line in block.strip("\n").splitlines():
        indent, names = re.match(r"( *)(\S+(?: \S+)*)", line).groups()
        parents = parents[: len(indent) // 2]
        paths += ["".join([*parents, name]) for name in names.split()]
        if names.endswith("/"):
            parents.append(names.split()[-1])
    return paths


def test_the_picture_is_the_graph():
    drawn = set(re.findall(r"(\w+) --> (\w+)", README))
    graph = defs.resolve_asset_graph()
    real = {(p.path[-1], k.path[-1]) for k in graph.get_all_asset_keys() for p in graph.get(k).parent_keys}
    assert drawn == real


def test_the_tree_names_what_is_there_and_every_package():
    paths = tree()
    assert not [path for path in paths if not (CHECKOUT / path).exists()]
    packages = {f"{p.parent.relative_to(CHECKOUT)}/" for top in ("mmret", "assets") for p in (CHECKOUT / top).glob("*/__init__.py")}
    assert not packages - set(paths), "packages that the tree leaves out"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_every_file_that_a_page_names_exists(page: Path):
    """Files and, by their last ``/``, folders; patterns have to match something. ``mmret/because`` is a tag of Dagster's."""
    named = re.findall(rf"(?<![\w/.-])((?:{ROOTS})/(?:[\w.*-]+/)*(?:[\w*-]+(?:\.\w+)+)?)(?![\w])", page.read_text())
    gone = [path for path in named if not [*CHECKOUT.glob(path.rstrip("/"))]]
    assert not gone, f"{page.name} names what is not there: {gone}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_every_picture_and_document_that_a_page_links_exists(page: Path):
    for target in re.findall(r"\]\(([\w./-]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def rows(heading: str) -> list[list[str]]:
    """Cells of the table in *Where is what* whose first column is ``heading``."""
    section = README.split("## Where is what")[1]
    table = section.split(f"| {heading} |")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_a_person_finds_the_file_of_every_stage_and_of_every_command():
    stages = [name for first, *_ in rows("stage, asset") for name in re.findall(r"`(\w+)`", first)]
    assert sorted(stages) == sorted(table for stage in TABLE for table in stage.tables)
    commands = [name for first, *_ in rows("command") for name in re.findall(r"`([\w-]+)`", first)]
    assert sorted(commands) == sorted(documented())
    files = [name for _, second, _ in rows("command") for name in re.findall(r"`(\w+\.py)`", second)]
    assert len(files) > len(commands) and not [name for name in files if not (CHECKOUT / "mmret" / "cli" / name).exists()]
