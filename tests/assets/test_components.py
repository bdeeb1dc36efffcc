"""A source and a recipe in a ``defs.yaml`` each, as docs/dagster.md shows them: a misspelling is refused, and a lake gets them when
its corpus is sealed in Dagster, not by `mmret run`."""

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner

from assets.components import Recipe, Source
from assets.components.code_location import with_declared
from assets.components.recipe import run_if_due
from assets.definitions import defs
from mmret.errors import UserError
from mmret.freshness.survey import survey
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.lake.lease import exclusive
from resources.declared import Declarations, DeclaredRecipe, DeclaredSource, is_for
from resources.lake import LakeResource
from tests.assets.pictures import drop
from tests.conftest import CHECKOUT

PAGE = (CHECKOUT / "docs" / "dagster.md").read_text()
SOURCE, RECIPE = re.findall(r"```yaml\n(# assets/defs: .*?)```", PAGE, re.DOTALL)


class Project:
    """A project of its own, with the pictures of the documented source and an empty lake that this process serves."""

    def __init__(self, root: Path):
        self.root, self.name = root, f"declares_{root.name}"
        (root / "dg.toml").write_text(f'directory_type = "project"\n\n[project]\nroot_module = "{self.name}"\n')
        (root / self.name / "defs").mkdir(parents=True)
        for folder in (root / self.name, root / self.name / "defs"):
            (folder / "__init__.py").write_text("")
        drop(root / "holiday", 0, 7)
        self.lake = Lake(root / "lake")

    def write(self, folder: str, text: str) -> None:
        path = self.root / self.name / "defs" / folder / "defs.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def load(self) -> dg.Definitions:
        return with_declared(defs, dg.ComponentTree.for_project(self.root))


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    project = Project(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MMRET_LAKE", str(project.lake.root))
    yield project
    for name in [name for name in sys.modules if name.split(".")[0] == project.name]:
        del sys.modules[name]


@pytest.fixture
def documented(project: Project) -> Project:
    project.write("holiday", SOURCE.replace("/data/holiday", "holiday"))
    project.write("night", RECIPE)
    return project


def seal(location: dg.Definitions, instance: dg.DagsterInstance) -> None:
    assert location.resolve_job_def("seal_corpus").execute_in_process(instance=instance).success


def test_the_documented_files_give_a_lake_their_pictures_and_their_recipe(documented):
    lake, location = documented.lake, documented.load()
    with dg.instance_for_test() as instance:
        seal(location, instance)
        rows, settings = lake.read("corpus_manifest"), resolve(lake)[0]
        assert rows.num_rows == 7 and set(rows["root"].to_pylist()) == {str(documented.root / "holiday")}
        assert settings.corpus.sources == (str(documented.root / "holiday"),)
        assert (settings.recipes["night"].steps, settings.recipes["night"].negatives) == (200, "query")
        assert "night" in settings.train and ("checkpoints", "night") in {(s.table, s.partition) for s in survey(lake, settings)}
        assert set(instance.get_dynamic_partitions("recipes")) == set(settings.recipes) >= {"night", "demo"}
        written = (lake.root / "lake.yaml").read_bytes()
        seal(location, instance)
        assert (lake.root / "lake.yaml").read_bytes() == written, "declared again, nothing changes"
    graph = location.resolve_asset_graph()
    assert dg.AssetKey(["sources", "holiday"]) in graph.get(dg.AssetKey("corpus_manifest")).parent_keys
    repository = location.get_repository_def()
    schedules = [repository.get_schedule_def(name) for name in ("seal_holiday", "train_night")]
    for instigator in (*schedules, repository.get_sensor_def("watch_holiday")):
        assert instigator.default_status.value == "RUNNING", "somebody has asked for it in a file"


def test_what_the_command_line_runs_has_no_declaration(documented):
    """`mmret run` loads ``defs``, whatever ``assets/defs`` holds and whichever lake it works on."""
    assert defs.resources["declared"] == Declarations()
    documented.lake.write_configuration(resolve(documented.lake, sources=["shapes:3"])[1])
    with dg.instance_for_test() as instance:
        seal(defs, instance)
    assert documented.lake.read("corpus_manifest").num_rows == 3 and "night" not in resolve(documented.lake)[0].recipes


def test_what_names_a_lake_is_for_that_lake_alone(tmp_path):
    plan = {"sources": [], "remove": [], "overrides": {"mine.k": 3}}
    mine, other = Lake(tmp_path / "mine"), Lake(tmp_path / "other")
    declared = Declarations(
        sources=[DeclaredSource(name="s", path="/pictures", lake=str(mine.root))],
        recipes=[DeclaredRecipe(name="r", settings={"steps": 3}, lake=str(mine.root))],
    )
    assert declared.added_to(plan, other) == plan and declared.unknown_to(other) == []
    added = declared.added_to(plan, mine)
    assert added["sources"] == ["/pictures"] and added["overrides"] == {"mine.k": 3, "recipes.r": {"steps": 3}}
    assert declared.unknown_to(mine) == ["source s", "recipe r"]


def test_the_schedule_of_a_recipe_runs_it_once_it_is_known_and_leaves_a_working_lake_alone(documented):
    lake, location = documented.lake, documented.load()
    schedule = location.get_repository_def().get_schedule_def("train_night")
    (night,) = location.resources["declared"].recipes
    with dg.instance_for_test() as instance:
        lake.write_configuration(resolve(lake, sources=["shapes:3"])[1])
        context = dg.build_schedule_context(
            instance, scheduled_execution_time=datetime(2026, 1, 1, tzinfo=UTC), resources={"lake": LakeResource()}
        )
        assert "does not know recipe night yet: materialise corpus_manifest" in schedule.evaluate_tick(context).skip_message
        seal(location, instance)
        asked = run_if_due(SimpleNamespace(instance=instance), lake, night)
        assert asked.partition_key == "night" and asked.tags == {"mmret/because": "schedule of recipe night"}
        with exclusive(lake):
            assert "`mmret run` is working" in run_if_due(SimpleNamespace(instance=instance), lake, night).skip_message


def test_two_files_of_one_name_are_refused(documented):
    documented.write("second", RECIPE)
    with pytest.raises(UserError, match="recipe night is declared in two files"):
        documented.load()


def test_a_source_elsewhere_is_refused_and_a_relative_one_is_of_the_project(tmp_path):
    given = {"name": "s", "lake": "lakes/mine"}
    declared = Source(path="data/pictures", **given).declared(tmp_path)
    assert (declared.path, declared.lake) == (str(tmp_path / "data/pictures"), str(tmp_path / "lakes/mine"))
    assert Source(path="shapes:9?seed=1", name="s").declared(tmp_path).path == "shapes:9?seed=1"
    with pytest.raises(UserError, match="only paths of this machine"):
        Source(path="https://host/pictures", **given).declared(tmp_path)
    assert Source(path="s3://bucket/pictures", **given).declared(tmp_path).path == "s3://bucket/pictures"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RECIPE.replace("steps:", "setps:"), r"night/defs.yaml:\d+ .*setps.* not allowed"),
        (RECIPE.replace("negatives: query", "negatives: all"), "'all' is not one of"),
        (RECIPE.replace("steps: 200", "steps: many"), "'many' is not of type 'integer'"),
        (RECIPE.replace("name: night", "name: a.b"), "'a.b' does not match"),
        (RECIPE, None),
    ],
)
def test_dg_check_yaml_refuses_a_misspelt_field_or_value_with_its_line(project, text, said):
    from dagster_dg_cli.cli import create_dg_cli

    project.write("night", text)
    done = CliRunner().invoke(create_dg_cli(), ["check", "yaml", "--target-path", str(project.root)])
    if said is None:
        assert done.exit_code == 0, done.output
    else:
        assert done.exit_code == 1 and re.search(said, done.output), done.output


def test_a_misspelling_that_is_not_looked_for_is_refused_when_it_is_loaded(documented):
    documented.write("evening", RECIPE.replace("night", "evening").replace("steps:", "setps:"))
    with pytest.raises(Exception, match="evening") as refused:
        documented.load()
    causes = [refused.value]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    assert any("setps" in str(cause) for cause in causes)


def test_a_declared_recipe_has_every_field_of_a_recipe_and_the_examples_are_what_the_schema_takes():
    from mmret.settings import Recipe as Settings

    assert set(Recipe.model_fields) == set(Settings.model_fields) | {"name", "train", "schedule", "lake"}
    for kind, text in ((Source, SOURCE), (Recipe, RECIPE)):
        declared = yaml.safe_load(text)
        assert declared["type"] == f"assets.components.{kind.__name__}" and kind.model_validate(declared["attributes"])


def test_a_declaration_may_name_a_lake_by_its_address(tmp_path):
    address = "s3://bucket/lakes/mine"
    assert Source(path="shapes:9", name="s", lake=address).declared(tmp_path).lake == address
    lake = Lake(address)
    assert is_for(lake, "s3a://bucket/lakes/mine/") and is_for(lake, None)
    assert not is_for(lake, "lakes/mine") and not is_for(Lake("lakes/mine"), address)
