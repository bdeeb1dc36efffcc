"""Settings: every profile loads, mistakes are named, and a lake remembers what it was run with."""

import pytest

from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.settings import load_profile, parse_override, profile_names


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_loads(name):
    assert load_profile(name).name == name


def test_paper_values_are_the_defaults():
    profile = load_profile("paper")
    assert {(b.low, b.high) for b in profile.mine.bands.values()} == {(0.8, 0.96)}
    base = profile.recipes["base"]
    assert (base.batch_size, base.steps, base.learning_rate, base.temperature) == (2048, 15_000, 5e-6, 0.02)
    assert profile.recipes["large"].steps == 25_000
    assert 1 + base.mined_negatives == 4  # the query image counted


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("mine.neighbors=3", "mine.neighbors"),
        ("mine.k=0", "mine.k"),
        ("recipes.demo.steps=many", "recipes.demo.steps"),
        ("mine.bands.caption={low: 0.9, high: 0.2}", "mine.bands"),
        ("train=[nobody]", "nobody"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(override, named):
    with pytest.raises(UserError, match=named.replace(".", r"\.")):
        load_profile("demo", dict([parse_override(override)]))


def test_unknown_profile_lists_those_there_are():
    with pytest.raises(UserError, match="demo, local, paper"):
        load_profile("dmeo")


def test_a_lake_remembers_sources_and_overrides_and_adds_new_ones(tmp_path):
    lake = Lake(tmp_path / "lake")
    first, choices = resolve(lake, sources=["shapes:100"], overrides={"mine.k": 7})
    lake.write_configuration(choices)
    again, _ = resolve(lake)
    assert again == first and again.mine.k == 7
    more, choices = resolve(lake, sources=[str(tmp_path), "shapes:100"], shard_size=10)
    assert more.corpus.sources == ("shapes:100", str(tmp_path.resolve())) and more.corpus.shard_size == 10
    lake.write_configuration(choices)
    with pytest.raises(UserError, match="made with profile 'demo'"):
        resolve(lake, profile="paper")


@pytest.mark.parametrize(
    ("setting", "first"),
    [
        ({"mine.signals": ["caption"]}, "candidates"),
        ({"mine.k": 9}, "candidates"),
        ({"mine.targets_per_query": 9}, "pairs"),
        ({"annotate.instructions_per_pair": 5}, "instructions"),
        ({"annotate.seed": 5}, "descriptions"),
        ({"evaluate.held_out": 0.5}, "triplets"),
        ({"recipes.demo.steps": 7}, "checkpoints"),
        ({"towers.seed": 7}, "towers"),
        ({"ingest.animated": "reject"}, "images"),
        ({"mine.tile": 512, "corpus.shard_size": 7}, None),
    ],
)
def test_a_setting_touches_the_stages_that_read_it_and_no_earlier_one(setting, first):
    from mmret.stages import FINGERPRINTED_STAGES

    before, after = load_profile("demo"), load_profile("demo", setting)
    touched = [
        s.name
        for s in FINGERPRINTED_STAGES.values()
        if s.fingerprint_settings(before, "demo") != s.fingerprint_settings(after, "demo")
    ]
    assert (touched[0] if touched else None) == first
