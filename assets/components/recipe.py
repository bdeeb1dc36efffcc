"""A training run, declared: ``type: assets.components.Recipe`` in a ``defs.yaml``."""

from typing import Any

import dagster as dg
from pydantic import Field

from assets.components.declaration import LAKE, NAME, SCHEDULE, Declaration, cron, lake_in_project
from assets.partitions import recipes
from mmret.freshness.fingerprints import current_facts
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.lake.lease import is_leased
from mmret.settings import Recipe as RecipeSettings
from resources.declared import DeclaredRecipe, is_for


class Recipe(Declaration, RecipeSettings):
    """A training run described by data: a partition of `checkpoints` and `evaluations`.

    Materialising `corpus_manifest` (job `seal_corpus`) makes the lake remember it, with exactly these settings, and registers its
    partition; `mmret run` and every backfill see it from then on. What is not said has the default of the paper.
    """

    name: str = Field(pattern=NAME, description="name of the partition, of its checkpoint and in every table of results")
    train: bool = Field(
        False, description="train it without being asked for: in `mmret run`, and in the UI after `automation.new_pairs` triplets"
    )
    schedule: str | None = SCHEDULE
    lake: str | None = LAKE

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        if not self.schedule:
            return dg.Definitions()
        declared = self.declared(context.project_root)

        def ask(context: dg.ScheduleEvaluationContext, store: Lake) -> dg.RunRequest | dg.SkipReason:
            return run_if_due(context, store, declared)

        said = f"Trains and evaluates recipe {self.name} where it is missing or stale."
        return dg.Definitions(schedules=[cron(f"train_{self.name}", "train_and_evaluate", self.schedule, said, ask)])

    def declared(self, project_root: Any) -> DeclaredRecipe:
        """What `corpus_manifest` is given of it."""
        settings = self.model_dump(mode="json", include=self.model_fields_set & set(RecipeSettings.model_fields))
        lake = lake_in_project(self.lake, project_root)
        return DeclaredRecipe(name=self.name, settings=settings, train=self.train, lake=lake)


def run_if_due(context: dg.ScheduleEvaluationContext, store: Lake, declared: DeclaredRecipe) -> dg.RunRequest | dg.SkipReason:
    """A run of the recipe's partition, where it is known and not current."""
    name = declared.name
    if not is_for(store, declared.lake):
        return dg.SkipReason(f"it is declared for {declared.lake}, and this code location serves {store.address}")
    if is_leased(store):
        return dg.SkipReason(f"`mmret run` is working on {store.address}")
    profile = resolve(store)[0]
    if name not in profile.recipes or name not in context.instance.get_dynamic_partitions(recipes.name):
        return dg.SkipReason(f"the lake does not know recipe {name} yet: materialise corpus_manifest (job seal_corpus)")
    if all(current_facts(store, profile, table, name) for table in ("checkpoints", "evaluations")):
        return dg.SkipReason(f"checkpoint and evaluation of {name} are current")
    return dg.RunRequest(partition_key=name, tags={"mmret/because": f"schedule of recipe {name}"})
