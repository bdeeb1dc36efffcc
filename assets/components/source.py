"""A source of pictures, declared: ``type: assets.components.Source`` in a ``defs.yaml``."""

from typing import Any

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field

from assets.automation.watching import look
from assets.components.declaration import LAKE, NAME, SCHEDULE, Declaration, cron, in_project, lake_in_project
from mmret.lake import Lake
from mmret.lake.configuration import resolve, source_name
from mmret.lake.lease import is_leased
from mmret.storage import is_object_address
from resources.declared import DeclaredSource, is_for
from resources.lake import LakeResource

SEAL = "seal_corpus"
"""The job by its name: a component's definitions are copied, and one name would be two jobs then."""


class Source(Declaration, BaseModel):
    """A folder, manifest file or WebDataset tar whose pictures belong to the corpus.

    Materialising `corpus_manifest` (job `seal_corpus`) seals its pictures into shards and makes the lake remember it, so that
    `mmret run` and every backfill see it from then on. Deleting the file takes no picture out: remove the source from the lake.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME, description="what it is called in the graph")
    path: str = Field(
        min_length=1,
        examples=["/data/pictures", "shapes:500?seed=3"],
        description="folder, manifest file or WebDataset tar, here or in an object store (s3://bucket/prefix); a relative one from "
        "the folder with pyproject.toml",
    )
    watch: bool = Field(False, description="seal by itself what is new, once the source has changed and is quiet again")
    schedule: str | None = SCHEDULE
    lake: str | None = LAKE

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        declared = self.declared(context.project_root)
        automation: dict[str, Any] = {}
        if self.watch:
            automation["sensors"] = [_watch(declared)]
        if self.schedule:
            automation["schedules"] = [_seal_regularly(declared, self.schedule)]
        return dg.Definitions(assets=[self.spec(declared)], **automation)

    def declared(self, project_root: Any) -> DeclaredSource:
        """What `corpus_manifest` is given of it, with absolute paths."""
        lake = lake_in_project(self.lake, project_root)
        path = self.path if is_object_address(self.path) else in_project(self.path, project_root)
        return DeclaredSource(name=self.name, path=path, lake=lake)

    def spec(self, declared: DeclaredSource) -> dg.AssetSpec:
        """The source in the graph: something outside that the manifest is made from."""
        return dg.AssetSpec(
            key=key_of(self.name),
            group_name="sources",
            description=f"Source of pictures: {declared.path}",
            kinds={"file"},
            metadata={"path": declared.path, "watched": self.watch, **({"lake": declared.lake} if declared.lake else {})},
        )


def key_of(name: str) -> dg.AssetKey:
    """The asset of the source called ``name``."""
    return dg.AssetKey(["sources", name])


def _not_now(store: Lake, declared: DeclaredSource) -> dg.SkipReason | None:
    if not is_for(store, declared.lake):
        return dg.SkipReason(f"it is declared for {declared.lake}, and this code location serves {store.address}")
    return dg.SkipReason(f"`mmret run` is working on {store.address}") if is_leased(store) else None


def _watch(declared: DeclaredSource) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"watch_{declared.name}".replace("-", "_"),
        job_name=SEAL,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Seals what appears in {declared.path}, once it is quiet.",
    )
    def watch(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult | dg.SkipReason:
        store = lake.open()
        if reason := _not_now(store, declared):
            return reason
        path = source_name(declared.path)
        settle = resolve(store, sources=[path])[0].automation.settle_seconds
        return look([path], context.cursor, settle)

    return watch


def _seal_regularly(declared: DeclaredSource, schedule: str) -> dg.ScheduleDefinition:
    def ask(_context: dg.ScheduleEvaluationContext, store: Lake) -> dg.RunRequest | dg.SkipReason:
        reason = _not_now(store, declared)
        return reason or dg.RunRequest(tags={"mmret/because": f"schedule of source {declared.name}"})

    return cron(f"seal_{declared.name}", SEAL, schedule, f"Lists the sources again; declared by {declared.name}.", ask)
