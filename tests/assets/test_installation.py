"""What the UI shows of an asset beside its rows: owners, limits of age, tags, and links that lead to the lines they name."""

import re
from pathlib import Path

import dagster as dg
import pytest

from assets.definitions import defs
from assets.display.installation import FILE, Installation, Source, installation, read_installation
from assets.display.source import CHECKOUT, linked
from assets.mining import pairs
from mmret.errors import UserError
from mmret.stages import TABLE, stage_of

GRAPH = defs.resolve_asset_graph()
ASSETS = [table for stage in TABLE for table in stage.tables]


def references(node) -> list[tuple[str, int]]:
    return [(r.file_path, r.line_number) for r in node.metadata["dagster/code_references"].code_references]


@pytest.mark.parametrize("table", ASSETS)
def test_the_links_of_an_asset_lead_to_its_function_and_to_the_one_that_computes_it(table):
    """A factory's assets lead to the function inside the factory, and none to the decorator."""
    (own, line), *computing = references(GRAPH.get(dg.AssetKey(table)))
    lines = Path(own).read_text().splitlines()[line - 1 :]
    assert Path(own).parent == CHECKOUT / "assets" and lines[0].lstrip().startswith("@stage_asset"), (own, line)
    assert computing, "nothing of the library computes it"
    for file, at in computing:
        assert re.match(r"def \w+\(", Path(file).read_text().splitlines()[at - 1]) and file.endswith("/stage.py"), (file, at)


def test_with_a_url_the_links_lead_to_the_repository():
    source = Source(url="https://git.example.org/group/name/", branch="v1", platform="gitlab")
    found = linked(pairs, source).metadata_by_key[dg.AssetKey("pairs")]["dagster/code_references"].code_references
    (_, own), (_, computing), (_, keeping_out) = references(GRAPH.get(dg.AssetKey("pairs")))
    assert [r.url for r in found] == [
        f"https://git.example.org/group/name/-/tree/v1/assets/mining.py#L{own}",
        f"https://git.example.org/group/name/-/tree/v1/mmret/mine/stage.py#L{computing}",
        f"https://git.example.org/group/name/-/tree/v1/mmret/score/stage.py#L{keeping_out}",
    ]
    assert linked(pairs, Source()) is pairs


@pytest.mark.parametrize("table", ASSETS)
def test_an_asset_can_be_found_by_what_it_needs_and_what_it_is_split_by(table):
    tags, stage = GRAPH.get(dg.AssetKey(table)).tags, stage_of(table)
    assert (tags["mmret/needs"], tags["mmret/partitions"]) == (stage.needs, stage.partitions)
    assert ("mmret/cost" in tags) == (stage.cost is not None)


def test_what_ages_has_a_limit_and_it_is_that_of_the_file():
    limits = {table: GRAPH.get(dg.AssetKey(table)).freshness_policy for table in ASSETS}
    assert {table for table, policy in limits.items() if policy} == {"corpus_manifest", "checkpoints", "evaluations"}
    policy = limits["corpus_manifest"]
    assert (policy.warn_window.to_timedelta().days, policy.fail_window.to_timedelta().days) == (7, 14)
    assert GRAPH.get(dg.AssetKey("checkpoints")).owners == installation().owners == ["team:mmret"]


def test_a_limit_and_owners_of_one_s_own(tmp_path):
    own = tmp_path / "definitions.yaml"
    own.write_text("owners: [ann@example.org]\nfreshness: {pairs: {fail: 0.5}, checkpoints: null}\n")
    found = read_installation(own)
    assert found.freshness_policy("pairs").fail_window.to_timedelta().total_seconds() == 43_200
    assert found.freshness_policy("pairs").warn_window is None
    assert found.freshness_policy("checkpoints") is None and found.freshness_policy("evaluations") is None
    assert found.owners == ["ann@example.org"]
    own.write_text("")
    assert read_installation(own) == Installation()
    assert read_installation(FILE) == installation()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("owners: [ann]", "owners.0: an owner is team:NAME or an e-mail address"),
        ("owners: ['team:']", "owners.0: an owner is team:NAME or an e-mail address"),
        ("freshness: {pears: {fail: 1}}", "no asset is called pears; there are corpus_manifest, remarks, written_captions, images"),
        ("freshness: {pairs: {warn: 2, fail: 2}}", "freshness.pairs: warn must be fewer days than fail"),
        ("freshness: {pairs: {fail: 0}}", "freshness.pairs.fail: Input should be greater than 0"),
        ("source: {url: 'https://git.example.org/a'}", "source: set platform to github or gitlab"),
        ("colour: red", "colour: Extra inputs are not permitted"),
        ("owners: [", "is not the YAML that it should be"),
        ("- owners", "is not the YAML that it should be"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_place(tmp_path, text, said):
    own = tmp_path / "definitions.yaml"
    own.write_text(text)
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        read_installation(own)
    assert str(own) in str(refused.value)
