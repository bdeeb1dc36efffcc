"""``python -m tests.recorded_reads LAKE``: a whole small run in this process, and as JSON what each stage read of the lake.

Recorded is what goes through the lake between a stage's begin and the writing of its table: (table, partition) of Parquet, the
table alone of Lance; and the columns of each table of Parquet. In a process of its own, because the code location takes its lake
when it is loaded.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

Read = tuple[str, str | None]


class Recorder:
    """Patches the lake's methods; ``found`` holds (stage, partition, what was read) in the order of the run."""

    def __init__(self) -> None:
        self.stage = ""
        self.pending: set[Read] = set()
        self.columns: set[tuple[str, str]] = set()
        self.found: list[tuple[str, str, list[Read], list[tuple[str, str]]]] = []

    def note(self, table: str, partitions: Iterable[str | None]) -> None:
        if self.stage:
            self.pending |= {(table, partition) for partition in partitions}

    def patch(self) -> None:
        import assets.materialize
        from mmret.lake import Lake
        from mmret.schemas import TABLES

        read, head, facts, lance, write = Lake.read, Lake.head, Lake.facts, Lake.lance, Lake.write

        def begin(lake: Lake, inputs: Any) -> None:
            recording(lake, inputs)
            self.stage, self.pending, self.columns = inputs.table, set(), set()

        def reading(lake: Lake, table: str, partitions: Any = None, columns: Any = None, filters: Any = None) -> Any:
            named = lake.partitions(table) if partitions is None else [partitions] if isinstance(partitions, str) else partitions
            named = list(named)
            self.note(table, named)
            self.columns |= {(table, column) for column in columns or TABLES[table].names}
            return read(lake, table, named, columns, filters)

        def first_rows(lake: Lake, table: str, partition: str, rows: int) -> Any:
            self.note(table, [partition])
            return head(lake, table, partition, rows)

        def knowing(lake: Lake, table: str, partition: str) -> Any:
            self.note(table, [partition])
            return facts(lake, table, partition)

        def opening(lake: Lake, name: str, schema: Any = None) -> Any:
            self.note(name, [None])
            return lance(lake, name, schema)

        def writing(lake: Lake, table: str, partition: str, *args: Any, **kwargs: Any) -> Any:
            if table == self.stage:
                self.found.append((table, partition, sorted(self.pending, key=str), sorted(self.columns)))
                self.stage = ""
            return write(lake, table, partition, *args, **kwargs)

        recording, assets.materialize.record_inputs = assets.materialize.record_inputs, begin
        Lake.read, Lake.head, Lake.facts, Lake.lance, Lake.write = reading, first_rows, knowing, opening, writing


def main(folder: str) -> None:
    os.environ["MMRET_LAKE"] = folder
    from assets.runner.run import Runner
    from mmret.lake import Lake
    from mmret.lake.configuration import resolve
    from mmret.lake.lease import exclusive
    from mmret.settings import parse_override
    from tests.small_runs import TINY

    lake, recorder = Lake(folder), Recorder()
    pictures = Path(folder).parent / "without captions"
    pictures.mkdir()
    for at, name in enumerate(("red barn", "blue boat", "old bridge")):
        Image.new("RGB", (32, 32), (80 * at, 40, 200)).save(pictures / f"{name}.png")
    settings = [*TINY, "scores={sharp: {measure: sharpness, minimum: 0}}"]  # a stage that only some lakes have
    profile, configuration = resolve(lake, "demo", ["shapes:150?seed=3", str(pictures)], 60, dict(map(parse_override, settings)))
    lake.write_configuration(configuration)
    recorder.patch()
    with exclusive(lake) as lease:
        Runner(lease, profile, lambda *_: None).run()
    json.dump(recorder.found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
