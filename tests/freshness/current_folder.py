"""A lake of a real folder of pictures in which everything is current, made in a moment: its tables are empty."""

from __future__ import annotations

from pathlib import Path

from mmret.freshness.fingerprints import inputs_of
from mmret.freshness.last_run import note_last_run, record_path
from mmret.freshness.turns import first_stale, turns_of
from mmret.freshness.up_to_date import nothing_to_do
from mmret.ingest.stage import Sealing, seal_corpus
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.lake.inputs import record_inputs
from mmret.schemas import TABLES
from mmret.settings import Profile
from mmret.stages import FINGERPRINTED_STAGES, RUNS, STAGES, UNPARTITIONED
from tests.ingest.files import captioned, png


class Current:
    """A lake of a folder of pictures of which every stage is current, its tables empty, and the record of its last run."""

    def __init__(self, root: Path):
        self.folder = captioned(root / "pictures", {f"{i}.png": png(i) for i in range(6)})
        self.lake = Lake(root / "lake")
        self.settings(resolve(self.lake, sources=[str(self.folder)], overrides={"corpus.shard_size": 4})[1])
        seal_corpus(self.lake, self.profile, "x")
        for name, stage in FINGERPRINTED_STAGES.items():
            for partition in turns_of(self.lake, self.profile, name):
                if stage.applies(self.lake, self.profile, partition or UNPARTITIONED):
                    self.compute(name, partition or UNPARTITIONED)
        self.record = record_path(self.lake)
        note_last_run(self.record, self.lake, self.profile, [])

    @property
    def profile(self) -> Profile:
        return resolve(self.lake)[0]

    def settings(self, configuration: dict) -> None:
        self.lake.write_configuration(configuration)

    def compute(self, stage: str, partition: str) -> None:
        inputs = inputs_of(self.lake, self.profile, stage, partition)
        record_inputs(self.lake, inputs)
        for table in STAGES[stage].tables:
            notes = {"groups": 0, "largest": 0} if table == "duplicates" else {}
            self.lake.write(table, partition, TABLES[table].empty_table(), inputs.fingerprint, **notes)

    def ask(self, forget_missing: bool = False):
        return nothing_to_do(self.lake, self.profile, self.record, forget_missing)

    def has_work(self, forget_missing: bool = False) -> bool:
        """What a run finds: it seals first and then looks at each stage. Changes the lake."""
        profile = self.profile
        sealed = seal_corpus(self.lake, profile, "x", forget_missing)
        turns = ((run, key) for run in RUNS for key in turns_of(self.lake, profile, run[0]))
        return sealed != Sealing(0, 0, 0) or any(first_stale(self.lake, profile, run, key) for run, key in turns)
