"""``mmret compact``: merge small files and drop versions that nothing refers to."""

from __future__ import annotations

import os
import time
from typing import Annotated, Any

import typer

from mmret.cli.lake_option import LakeOption
from mmret.cli.terminal import print_json
from mmret.errors import UserError
from mmret.lake import IMPORT_PREFIX, Lake


def compact(
    lake: LakeOption,
    forget_opted_out: Annotated[
        bool,
        typer.Option(
            "--forget-opted-out",
            help="drop all that is left of pictures that opted out but the rows that say so, even where a checkpoint knows them",
        ),
    ] = False,
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
        raise UserError(f"{store.address} holds no lake yet: make one with `mmret run --lake {lake}`")
    with exclusive(store, command="mmret compact"):
        forgotten = _forget(store) if forget_opted_out else None
        done = summary(compact_lake(store, resolve(store)[0].history, time.time_ns(), refresh_catalogue))
    if as_json:
        print_json(done | ({"forgotten": forgotten} if forgotten else {}))
        return
    print(f"{store.address}: " + (_counts(done) or "nothing to do"))
    if forgotten:
        _print_forgotten(store, forgotten)


def _forget(lake: Lake) -> dict[str, Any]:
    from mmret.forget import forget_opted_out
    from mmret.lake.configuration import resolve
    from mmret.stages import STAGES
    from mmret.warehouse.catalogue import catalogue_path

    profile = resolve(lake)[0]
    unused = [
        (name, partition)
        for name, stage in STAGES.items()
        for partition in lake.partitions(name)
        if stage.partitions == "shard" and not partition.startswith(IMPORT_PREFIX) and not stage.applies(lake, profile, partition)
    ]
    done = forget_opted_out(lake, unused).as_dict()
    catalogue_path(lake).unlink(missing_ok=True)  # it names files that are gone; made anew below
    return done


def _counts(done: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in done.items() if isinstance(n, int) and n)


def _print_forgotten(lake: Lake, done: dict[str, Any]) -> None:
    if not done["pictures"]:
        print("no picture has opted out")
        return
    unknown = done["answers_of_unknown_pictures"]
    print(f"forgotten: {_counts({name: n for name, n in done.items() if name != 'answers_of_unknown_pictures'})}")
    print(
        "what stays are the rows that say so, with the path, caption and address that the source gives (corpus_manifest, rejects)"
    )
    if unknown:
        print(
            f"{unknown:,} stored answers of an older version do not say which pictures they are about, and no row came from them; "
            f"they stay. To be rid of them delete the folder {lake.storage.shown('answers')}: what is needed again is asked again"
        )
    for name, n in done["checkpoints"].items():
        print(f"{name} was trained on {n:,} pictures that opted out since; its weights still know them: train it anew or drop it")
    for name in done["unlisted"]:
        print(f"{name}: the exact rows it was trained on can no longer be listed (--as-of {name})")
    if os.environ.get("DAGSTER_HOME"):
        print("records of runs under DAGSTER_HOME have contact sheets of triplets; this command does not touch them")
