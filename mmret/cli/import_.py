"""``mmret import``: triplets that others released, with their pictures, into a lake."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmret.cli.lake_option import lake_option
from mmret.cli.terminal import print_json
from mmret.errors import UserError
from mmret.lake import Lake


class Release(StrEnum):
    megapairs = "megapairs"


def import_(
    what: Annotated[Release, typer.Argument(help="megapairs: JSON lines q_img, q_text, t_img, hns")],
    lake: Annotated[str, lake_option("; made where it does not exist")],
    annotations: Annotated[list[Path], typer.Option(help="a .jsonl file of the release; again for more")],
    images: Annotated[Path, typer.Option(help="folder that the paths in the annotations start from")],
    profile: Annotated[str | None, typer.Option(help="of a new lake: demo, local, paper or a YAML file")] = None,
    name: Annotated[str, typer.Option(help="recorded as source and model of every row")] = "MegaPairs release",
    licence: Annotated[str | None, typer.Option(help="of the pictures; none: unknown")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the counts as JSON")] = False,
) -> None:
    """Import released triplets, to train on them beside the lake's own. Begun again, it continues where it stopped."""
    from mmret.cli.graph import exclusive
    from mmret.cli.run_progress import RunProgress
    from mmret.ingest.released.megapairs import Release as Files
    from mmret.ingest.released.megapairs import import_release
    from mmret.lake.configuration import resolve
    from mmret.progress import reporting

    if not images.is_dir():
        raise UserError(f"--images {images}: no such folder")
    store = Lake(lake)
    releases = [Files(path.expanduser().absolute(), images.expanduser().absolute(), name, licence) for path in annotations]
    settings, choices = resolve(store, profile, imports=[str(release.annotations) for release in releases])
    if settings.towers is not None and not store.shards():
        raise UserError(
            f"profile {settings.name} trains its towers on captions, which the release does not have: give --profile "
            "local, whose encoders are published, or make the lake of your own pictures first"
        )
    progress = RunProgress(store, settings)
    with exclusive(store, choices, "mmret import"), progress, reporting(progress.advance):
        counts = import_release(store, releases, settings)
    if as_json:
        print_json(counts)
        return
    print(f"{store.address}: " + ", ".join(f"{what} {n:,}" for what, n in counts.items() if n))
    print(f"train on them: mmret run --lake {shlex.quote(str(lake))}")
