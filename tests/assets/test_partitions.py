"""Recipes and shards are partitions of whichever Dagster instance serves the lake, whoever made the lake and whichever version."""

import dagster as dg
import pytest

from assets.automation.registration import known_partitions
from assets.definitions import defs
from assets.partitions import recipes, register
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.lake.lease import exclusive
from resources.declared import Declarations, DeclaredRecipe
from resources.lake import LakeResource
from tests.freshness.empty_tables import seal


@pytest.fixture
def lake(tmp_path) -> Lake:
    lake = Lake(tmp_path / "lake")
    lake.write_configuration(resolve(lake, sources=["shapes:9"], overrides={"recipes.mine": {"steps": 3}})[1])
    for shard in ("shard-00000", "shard-00001"):
        seal(lake, shard)
    return lake


def tick(lake: Lake, instance: dg.DagsterInstance, declared: Declarations | None = None) -> dg.SensorResult | dg.SkipReason:
    resources = {"lake": LakeResource(folder=str(lake.root)), "declared": declared or Declarations()}
    found = known_partitions(dg.build_sensor_context(instance, resources=resources))
    for request in getattr(found, "dynamic_partitions_requests", None) or ():
        if isinstance(request, dg.AddDynamicPartitionsRequest):
            instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        for key in request.partition_keys if isinstance(request, dg.DeleteDynamicPartitionsRequest) else ():
            instance.delete_dynamic_partition(request.partitions_def_name, key)
    return found


def test_a_lake_that_this_instance_has_not_seen_gets_its_partitions_by_itself(lake):
    assert known_partitions.default_status == dg.DefaultSensorStatus.RUNNING
    with dg.DagsterInstance.ephemeral() as instance:
        tick(lake, instance)
        assert instance.get_dynamic_partitions("corpus_shards") == ["shard-00000", "shard-00001"]
        assert set(instance.get_dynamic_partitions("recipes")) == set(resolve(lake)[0].recipes) > {"mine"}
        assert tick(lake, instance).skip_message == "all partitions are known"
        seal(lake, "shard-00002")
        tick(lake, instance)
        assert instance.get_dynamic_partitions("corpus_shards")[-1] == "shard-00002"


def test_a_recipe_that_is_gone_from_the_settings_is_no_partition(lake):
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("recipes", ["of_before"])
        assert register(instance, [], ["mine"]) == ["of_before"] and instance.get_dynamic_partitions("recipes") == ["mine"]
        instance.add_dynamic_partitions("recipes", ["of_before"])
        tick(lake, instance)
        assert "of_before" not in instance.get_dynamic_partitions("recipes")


def test_the_sensor_says_what_is_declared_and_waits_to_be_sealed_and_leaves_a_working_lake_alone(lake):
    declared = Declarations(recipes=[DeclaredRecipe(name="night", settings={"steps": 3})])
    with dg.DagsterInstance.ephemeral() as instance:
        with exclusive(lake):
            assert "registers its own" in tick(lake, instance).skip_message
        tick(lake, instance)
        assert tick(lake, instance, declared).skip_message == (
            "declared, and not yet in the lake: recipe night. Materialise corpus_manifest (job seal_corpus)"
        )
        (lake.root / "lake.yaml").write_text("profile: nosuch\nsources: []\noverrides: {}\n")
        assert "no profile 'nosuch'" in tick(lake, instance).skip_message


def test_history_of_recipes_that_were_partitions_of_the_code_counts_after_they_are_the_lake_s(lake):
    """An earlier version had them as static partitions: what it trained stays green."""

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["demo", "mine"]))
    def checkpoints() -> None: ...

    with dg.instance_for_test() as instance:
        assert dg.materialize([checkpoints], instance=instance, partition_key="demo").success
        tick(lake, instance)
        status = instance.get_status_by_partition(dg.AssetKey("checkpoints"), ["demo", "mine"], recipes)
        assert status["demo"] == dg.AssetPartitionStatus.MATERIALIZED
        assert status["mine"] != dg.AssetPartitionStatus.MATERIALIZED
    assert defs.resolve_asset_graph().get(dg.AssetKey("checkpoints")).partitions_def == recipes
