"""One shard of a lake whose texts a local server writes, and what `mmret run` does with its two annotation stages."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from assets.materialize import current_or_compute
from mmret.annotate.backends.load import load_annotator
from mmret.annotate.stage import describe_shard, instruct_shard
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.settings import Profile
from tests.annotate.server import RudeServer
from tests.annotate.test_openai_server import _answer

SHARD = "shard-00000"


class AnnotationRun:
    """Sixty pairs without answers. Each run counts what its server was asked."""

    def __init__(self, root: Path):
        self.lake = Lake(root)
        shutil.rmtree(root / "answers")
        facts = self.lake.facts("pairs", SHARD)
        self.lake.write("pairs", SHARD, self.lake.read("pairs", SHARD).slice(0, 60), facts.inputs, **facts.notes)

    def profile(self, url: str, patience: float = 30.0, **more: Any) -> Profile:
        vision = {"model": "m", "urls": [url], "tries": 1, "timeout_s": patience, "deadline_s": patience, "image_size": 32}
        return resolve(
            self.lake,
            overrides={
                "annotate.backend": "openai",
                "annotate.vision": vision,
                "annotate.retries": 2,
                **{f"annotate.{k}": v for k, v in more.items()},
            },
        )[0]

    def run(self, behave: Callable[[dict[str, Any], int], Any] = _answer) -> tuple[int, int]:
        """What `mmret run` does with both stages of the shard. Returns (requests that the server got, rows worked on)."""
        with RudeServer(behave) as server:
            rows = self.annotate(self.profile(server.url))
            return len(server.bodies), rows

    def annotate(self, profile: Profile) -> int:
        rows = 0
        for table, make in (("descriptions", describe_shard), ("instructions", instruct_shard)):

            def compute(lake: Lake, profile: Profile, shard: str, inputs: str, make: Any = make, table: Any = table) -> Any:
                return make(lake, shard, load_annotator(profile.annotate, table), profile.annotate, inputs)

            rows += current_or_compute(self.lake, profile, table, SHARD, compute)[1]
        return rows

    def tables(self) -> tuple[pa.Table, pa.Table]:
        return self.lake.read("descriptions", SHARD), self.lake.read("instructions", SHARD)
