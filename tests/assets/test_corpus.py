"""Asset ``corpus_manifest`` as the launchpad runs it: the lake remembers the plan, and no setting that is for one run alone."""

from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from assets.corpus import corpus_manifest
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from resources.declared import Declarations
from resources.lake import LakeResource, ProfileResource
from tests.assets.pictures import drop


def seal(lake: Lake, plan: dict, **overrides: object) -> Mapping[str, dg.MetadataValue]:
    """Returns the metadata of the materialisation."""
    overrides = {name.replace("__", "."): value for name, value in overrides.items()}
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(
            [corpus_manifest],
            instance=instance,
            resources={
                "lake": LakeResource(folder=str(lake.root)),
                "profile": ProfileResource(overrides=overrides),
                "declared": Declarations(),
            },
            run_config={"ops": {"corpus_manifest": {"config": plan}}},
        )
    assert done.success
    return done.asset_materializations_for_node("corpus_manifest")[0].metadata


def rows(lake: Lake) -> list[int]:
    """Rows of each shard that are not left out for the limit `corpus.images`."""
    return [
        sum(reason != "beyond_limit" for reason in lake.read("corpus_manifest", shard)["reason"].to_pylist())
        for shard in lake.shards()
    ]


def test_overrides_of_a_run_count_for_that_run_and_are_not_remembered(tmp_path: Path):
    lake, folder = Lake(tmp_path / "lake"), tmp_path / "pictures"
    drop(folder, 0, 9)
    seal(lake, {"sources": [str(folder)], "shard_size": 4}, mine__k=7, corpus__images=6)
    assert sum(rows(lake)) == 6
    settings, configuration = resolve(lake)
    assert configuration["overrides"] == {"corpus.shard_size": 4} and configuration["sources"] == [str(folder)]
    assert settings.mine.k != 7 and settings.corpus.images is None
    seal(lake, {})
    assert sum(rows(lake)) == 9, "the next run takes every picture"


def test_what_is_gone_is_in_the_metadata_and_taken_out_only_by_the_run_that_is_told_to(tmp_path: Path):
    lake, folder = Lake(tmp_path / "lake"), tmp_path / "pictures"
    drop(folder, 0, 5)
    seal(lake, {"sources": [str(folder)]})
    (folder / "0000002.png").unlink()
    (folder / "0000003.txt").write_text("edited")

    def reasons() -> set[str | None]:
        return set(lake.read("corpus_manifest")["reason"].to_pylist())

    metadata = seal(lake, {})
    assert (metadata["pictures_missing"].value, metadata["rows_changed"].value, metadata["rows_computed"].value) == (1, 1, 1)
    assert reasons() == {None}
    metadata = seal(lake, {"forget_missing": True})
    assert (metadata["pictures_missing"].value, metadata["rows_changed"].value) == (0, 1) and reasons() == {None, "deleted"}
    assert seal(lake, {})["rows_computed"].value == 0


def test_the_plan_is_remembered_and_wins_over_the_overrides_of_its_run(tmp_path: Path):
    lake, folder = Lake(tmp_path / "lake"), tmp_path / "pictures"
    drop(folder, 0, 9)
    seal(lake, {"sources": [str(folder)], "images": 5, "settings": {"mine.k": 8}}, corpus__images=7)
    settings, configuration = resolve(lake)
    assert configuration["overrides"] == {"corpus.images": 5, "mine.k": 8} and settings.mine.k == 8
    assert sum(rows(lake)) == 5
    seal(lake, {"sources": ["shapes:3"], "remove": [str(folder)]}, mine__k=3)
    settings, configuration = resolve(lake)
    assert configuration["sources"] == ["shapes:3"] and configuration["removed"] == [str(folder)] and settings.mine.k == 8
