"""``mmret export``: the triplets as other tools read them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmret.cli.lake_option import LakeOption
from mmret.cli.terminal import print_json
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake.as_of import open_as_of
from mmret.settings import LicenceSettings


class Format(StrEnum):
    megapairs = "megapairs"
    huggingface = "huggingface"
    webdataset = "webdataset"
    tevatron = "tevatron"


class Pictures(StrEnum):
    rows = "rows"
    once = "once"


def export(
    lake: LakeOption,
    out: Annotated[Path, typer.Option(help="folder to write; must not exist yet")],
    format_: Annotated[
        Format,
        typer.Option(
            "--format",
            help="megapairs: JSON lines and images as the authors' release; "
            "huggingface: Parquet for datasets.load_dataset; webdataset: tars; "
            "tevatron: queries and corpus for tevatron.retriever",
        ),
    ],
    split: Annotated[str | None, typer.Option(help="train or test; default: both")] = None,
    without_rejected: Annotated[bool, typer.Option("--without-rejected", help="leave out what people rejected")] = False,
    only_accepted: Annotated[bool, typer.Option("--only-accepted", help="leave out what nobody accepted")] = False,
    licence: Annotated[
        list[str] | None,
        typer.Option(
            help="TERM=RULE for unknown, no_derivatives, non_commercial, share_alike: keep, apart or exclude; "
            "default: the lake's settings"
        ),
    ] = None,
    pictures: Annotated[
        Pictures, typer.Option(help="huggingface: query and target pictures in the rows, or only once each")
    ] = Pictures.rows,
    negatives: Annotated[int, typer.Option(min=0, help="webdataset: mined negatives with pictures in a sample")] = 3,
    as_of: Annotated[
        str | None,
        typer.Option(
            help="the triplets as they were: what a checkpoint was trained on (recipe or "
            "folder), a run, or a time such as 2026-01-31T12:00"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the counts as JSON")] = False,
) -> None:
    """Write the data set to a folder, whole or not at all; begun again, it continues where it stopped."""
    import importlib

    from mmret.export.rows import ExportSettings
    from mmret.lake.configuration import resolve

    store = open_as_of(Lake(lake), as_of)
    profile = resolve(store)[0]
    if split not in (None, "train", "test"):
        raise UserError(f"--split {split}: train or test")
    if without_rejected and only_accepted:
        raise UserError("give --without-rejected or --only-accepted, not both")
    settings = ExportSettings(
        splits=(split,) if split else ("train", "test"),
        decisions="only_accepted" if only_accepted else "without_rejected" if without_rejected else "ignore",
        licences=_licences(profile.licences, licence or []),
        pictures=pictures.value,
        negatives=negatives,
    )
    write = getattr(importlib.import_module(f"mmret.export.{format_.value}"), f"export_{format_.value}")
    made = write(store, profile, out, settings)
    counts = {name: {**{s: made.count(name, s) for s in settings.splits}, "images": len(made.images[name])} for name in made.sets()}
    if as_json:
        print_json({"out": str(out), "sets": counts, "left_out": made.left_out})
        return
    for name, found in counts.items():
        print(f"{out} ({name}): " + ", ".join(f"{what} {n:,}" for what, n in found.items()))
    if made.left_out:
        print("left out: " + ", ".join(f"{reason} {n:,}" for reason, n in made.left_out.items()))


def _licences(settings: LicenceSettings, rules: list[str]) -> LicenceSettings:
    """The lake's licence settings with ``TERM=RULE`` of the command line put over them."""
    from pydantic import ValidationError

    chosen = settings.model_dump()
    for rule in rules:
        term, _, value = rule.partition("=")
        chosen[term.strip()] = value.strip()
    try:
        return LicenceSettings.model_validate(chosen)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"--licence {' '.join(rules)}: {'.'.join(map(str, first['loc']))}: {first['msg']}; give TERM=RULE, for "
            "example share_alike=exclude"
        ) from None
