"""``mmret compact``: merge small files and drop versions that nothing refers to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from mmret.cli.terminal import print_json
from mmret.errors import UserError
from mmret.lake import Lake


def compact(
    lake: Annotated[Path, typer.Option(help="folder of the lake")],
    as_json: Annotated[bool, typer.Option("--json", help="print what was done as JSON")] = False,
) -> None:
    """Keep a lake small and fast: merge small files, drop old versions that no reader, checkpoint or `--as-of` needs any more.

    How long they are kept: settings history.days and history.bulky_days. Readers may be at work, a `mmret run` may not.
    """
    from mmret.cli.graph import exclusive
    from mmret.lake.compact import compact as compact_lake
    from mmret.lake.compact import summary
    from mmret.lake.configuration import resolve
    from mmret.warehouse import refresh_catalogue

    store = Lake(lake)
    if not store.partitions("corpus_manifest"):
        raise UserError(f"{store.root} holds no lake yet: make one with `mmret run --lake {lake}`")
    with exclusive(store, command="mmret compact"):
        done = summary(compact_lake(store, resolve(store)[0].history, time.time_ns(), refresh_catalogue))
    if as_json:
        print_json(done)
        return
    print(f"{store.root}: " + (", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in done.items()) or "nothing to do"))
