"""Invariants: a proposed band is that of the oldest shard and stays when the corpus grows; one made by the lake's towers is
used for their vectors only; vectors of two models are never compared; the lake's report is that of its neighbours."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from mmret.encode.bands import propose
from mmret.errors import UserError
from mmret.hashing import pair_id
from mmret.lake import Lake
from mmret.mine.band_report import report
from mmret.mine.lake_bands import bands_of, lake_report
from mmret.mine.stage import mine_candidates, mine_neighbours
from mmret.schemas import IMAGES_INDEX, PAIRS, SIGNALS, TOWERS
from mmret.settings import BandSettings, MineSettings
from tests.mine.corpora import clustered, image_ids
from tests.mine.lakes import MODEL, add_shard, filled

PROPOSED = MineSettings(k=10, tile=64, bands={s: "proposed" for s in SIGNALS}, signals=("caption",))


def no_encoder(signal: str):
    raise AssertionError(f"the encoder of {signal} was loaded")


def grown(root, shards: int = 1) -> Lake:
    lake, ids = Lake(root), image_ids(900)
    for at in range(shards):
        rows = slice(300 * at, 300 * at + 300)
        add_shard(lake, f"shard-0000{at}", ids[rows], {s: clustered(900, 24, n)[rows] for n, s in enumerate(SIGNALS)})
    return lake


def test_a_proposal_comes_from_the_oldest_shard_and_stays_when_the_corpus_grows(tmp_path):
    small, large = grown(tmp_path / "small"), grown(tmp_path / "large", 3)
    band = bands_of(small, PROPOSED, no_encoder)["caption"]
    assert band.band == propose(clustered(900, 24, 2)[:300], np.ones(1)) and MODEL in band.source
    assert bands_of(large, PROPOSED, no_encoder)["caption"] == band
    for shard in large.shards():
        notes = mine_candidates(large, shard, PROPOSED, "x", no_encoder).notes
        assert notes["bands"] == {"caption": [band.band.low, band.band.high]}
        assert notes["band_sources"] == {"caption": band.source}


def test_a_proposal_that_was_made_is_read_back_as_long_as_the_model_is_the_same(tmp_path, monkeypatch):
    lake = grown(tmp_path, 2)
    mine_candidates(lake, "shard-00000", PROPOSED, "x", no_encoder)
    band = bands_of(lake, PROPOSED, no_encoder)
    monkeypatch.setattr("mmret.mine.lake_bands.propose", lambda *a: BandSettings(low=0.1, high=0.2))
    assert bands_of(lake, PROPOSED, no_encoder) == band
    facts = lake.facts("caption", "shard-00000")
    lake.write("caption", "shard-00000", lake.read("caption", "shard-00000"), "y", **{**facts.notes, "model": "tests@2"})
    with pytest.raises(UserError, match="are gone from the lake"):  # it asks for the other model's vectors
        bands_of(lake, PROPOSED, no_encoder)


def test_the_towers_band_is_for_their_own_vectors_only(tmp_path):
    lake = grown(tmp_path)
    row = {"signal": "caption", "model": "tests@1", "images": 3, "steps": 3, "band_low": 0.25, "band_high": 0.75}
    lake.write("towers", "all", pa.Table.from_pylist([row], TOWERS), "x")
    band = bands_of(lake, PROPOSED, no_encoder)["caption"]
    assert (band.band, band.source) == (BandSettings(low=0.25, high=0.75), "towers")
    lake.write("towers", "all", pa.Table.from_pylist([row | {"model": "other@1"}], TOWERS), "x")
    assert bands_of(lake, PROPOSED, no_encoder)["caption"].band != band.band


def test_a_band_that_is_set_needs_nothing(tmp_path):
    of = bands_of(Lake(tmp_path), MineSettings(bands={"caption": {"low": 0.1, "high": 0.9}}), no_encoder)
    assert {s: b.source for s, b in of.items()} == dict.fromkeys(SIGNALS, "set")
    assert of["caption"].band.low == 0.1 and of["clip_image"].band == BandSettings()


def test_vectors_of_two_models_are_never_compared(tmp_path):
    lake = grown(tmp_path)
    add_shard(lake, "shard-00001", ["a", "b", "c"], {s: clustered(3, 24, 0) for s in SIGNALS}, model="tests@2+none")
    settings = MineSettings(tile=64)
    with pytest.raises(UserError, match="clip_image: shard-00000 was encoded by tests@1.none, shard-00001 by tests@2.none"):
        mine_candidates(lake, "shard-00001", settings, "x", no_encoder)


def test_the_lakes_report_is_that_of_its_neighbours(tmp_path):
    lake, settings = grown(tmp_path, 2), MineSettings(k=10, tile=64, bands={s: {"low": 0.5, "high": 0.9} for s in SIGNALS})
    with pytest.raises(UserError, match="no neighbours yet"):
        lake_report(lake, settings)
    for shard in lake.shards():
        mine_candidates(lake, shard, settings, "x", no_encoder)
    for shard in lake.shards():
        mine_neighbours(lake, shard, settings, "x")
    whole, part = lake_report(lake, settings), lake_report(lake, settings, ["shard-00001"])
    bands = dict.fromkeys(SIGNALS, BandSettings(low=0.5, high=0.9))
    assert whole == report([lake.read("neighbours")], bands, 600, 10) and json.dumps(whole)
    assert part["images"] == 300 and 0 < part["pairs"] < whole["pairs"]


def mined_lake(root) -> tuple[Lake, MineSettings]:
    lake, settings = grown(root), MineSettings(k=10, tile=64, bands={s: {"low": 0.5, "high": 0.9} for s in SIGNALS})
    mine_candidates(lake, "shard-00000", settings, "x", no_encoder)
    mine_neighbours(lake, "shard-00000", settings, "x")
    return lake, settings


def test_the_command_prints_the_report_and_draws_it(tmp_path, capsys):
    from mmret.cli.bands import bands

    lake, settings = mined_lake(tmp_path / "lake")
    bands(lake.root, plot=tmp_path / "new" / "bands.png", propose=False, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["proposed"] == {} and printed["report"]["pairs"] == lake_report(lake, settings)["pairs"] > 0
    assert (tmp_path / "new" / "bands.png").read_bytes().startswith(b"\x89PNG")
    bands(lake.root, plot=None, propose=False, as_json=False)
    text = capsys.readouterr().out
    assert "found by clip_image and caption" in text and "0.5 to 0.9" in text
    with pytest.raises(UserError, match="holds no lake yet"):
        bands(tmp_path / "nothing", plot=None, propose=False, as_json=False)


def with_pairs(lake: Lake, captions: list[str]) -> None:
    """Pairs of every image with the next one, whose ``captions`` are given in turn."""
    ids = lake.read("images")["image_id"].to_pylist()
    texts = [captions[at % len(captions)] for at in range(len(ids))]
    shards = ["shard-00000"] * len(ids)
    lake.write("images", "shard-00000", filled(IMAGES_INDEX, {"image_id": ids, "shard": shards, "caption": texts}), "y")
    pairs = list(zip(ids, ids[1:], strict=False))
    columns = {
        "pair_id": [pair_id(*pair) for pair in pairs],
        "query_id": [query for query, _ in pairs],
        "target_id": [target for _, target in pairs],
        "signals": [["caption"]] * len(pairs),
    }
    lake.write("pairs", "shard-00000", filled(PAIRS, columns), "x")


HATS = [f"a {colour} [bold]{thing}" for colour in ("red", "blue", "green") for thing in ("hat", "scarf|", "coat")]


def test_the_command_shows_what_the_pairs_change(tmp_path, capsys):
    from mmret.cli.bands import bands

    lake, _ = mined_lake(tmp_path / "lake")
    bands(lake.root, plot=None, propose=False, as_json=True)
    assert json.loads(capsys.readouterr().out)["changes"] is None
    with_pairs(lake, HATS)
    bands(lake.root, plot=None, propose=False, as_json=True)
    changes = json.loads(capsys.readouterr().out)["changes"]
    assert changes["pairs"] == lake.read("pairs").num_rows
    assert {frozenset(kind["words"]) for kind in changes["kinds"]} == {
        frozenset({"red", "blue", "green"}),
        frozenset({"[bold]hat", "[bold]scarf|", "[bold]coat"}),
    }
    bands(lake.root, plot=None, propose=False, as_json=False)
    text = capsys.readouterr().out
    assert "[bold]coat, [bold]hat, [bold]scarf|" in text  # a word of a caption is no markup
    with_pairs(lake, ["one two three", "four five six"])
    bands(lake.root, plot=None, propose=False, as_json=False)
    assert "The captions of this corpus tell few differences: targets are chosen by nearness." in capsys.readouterr().out


def test_the_ui_shows_what_the_pairs_of_a_shard_change(tmp_path):
    from assets.mining import changes_table

    lake, _ = mined_lake(tmp_path)
    with_pairs(lake, HATS)
    shown = changes_table(lake, "shard-00000").value
    assert "red, blue, green | " in shown and "\\[bold\\]scarf" in shown
    lake.write("pairs", "shard-00000", PAIRS.empty_table(), "x")
    assert changes_table(lake, "shard-00000") is None


def test_the_ui_shows_the_picture_of_a_shard(tmp_path):
    from assets.mining import band_picture
    from resources.lake import ProfileResource

    lake, _ = mined_lake(tmp_path)
    shown = band_picture(lake, ProfileResource(), "shard-00000").md_str
    assert shown.startswith("![") and "data:image/png;base64,iVBOR" in shown and len(shown) < 100_000
