"""README: the graph it draws is the graph there is, and every file of the tree it annotates exists."""

import re

from assets.definitions import defs
from tests.conftest import CHECKOUT

README = (CHECKOUT / "README.md").read_text()


def test_the_picture_is_the_graph():
    drawn = set(re.findall(r"(\w+) --> (\w+)", README))
    graph = defs.resolve_asset_graph()
    real = {(p.path[-1], k.path[-1]) for k in graph.get_all_asset_keys() for p in graph.get(k).parent_keys}
    assert drawn == real


def test_the_tree_names_what_is_there():
    tree = README.split("## What lies where")[1]
    names = re.findall(r"^ *([\w.]+(?:/|\.\w+))  ", tree, re.M)
    assert len(names) > 20
    for name in names:
        assert [p for p in CHECKOUT.rglob(name.rstrip("/")) if ".venv" not in p.parts], name


def test_every_picture_and_document_it_links_exists():
    for target in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (CHECKOUT / target).exists(), target
