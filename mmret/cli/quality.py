"""``mmret quality``: what can be measured of the written texts, shard by shard, without opening Dagster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmret.cli.lake_option import LakeOption
from mmret.cli.terminal import print_json
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.settings import parse_override


def quality(
    lake: LakeOption,
    shard: Annotated[list[str] | None, typer.Option(help="only this shard; again for more")] = None,
    anew: Annotated[bool, typer.Option(help="measure now, also where a run has noted its measurement")] = False,
    pictures: Annotated[Path | None, typer.Option(help="folder for a picture per shard")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="a setting for this time, for example quality.sample=1000"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the measurements as JSON")] = False,
) -> None:
    """How varied the instructions are, how long, what they leak, and whether half a query finds its target."""
    from mmret.annotate.quality.measure import measure_shard

    store = Lake(lake)
    ready = store.partitions("triplets")
    if unknown := set(shard or ()) - set(ready):
        raise UserError(f"no triplets of {', '.join(sorted(unknown))}; there are {', '.join(ready) or 'none'}")
    if not ready:
        raise UserError(f"{store.address} has no triplets yet: run `mmret run --lake {lake}` first")
    overrides = dict(parse_override(text) for text in set_ or [])
    profile, _ = resolve(store, overrides=overrides)
    found: dict[str, dict[str, Any]] = {}
    for each in shard or ready:
        noted = None if anew or overrides else store.facts("triplets", each).notes.get("quality")
        found[each] = noted or measure_shard(store, each, store.read("triplets", each), profile)
    if pictures is not None:
        from mmret.annotate.quality.picture import quality_picture

        pictures.mkdir(parents=True, exist_ok=True)
        for each, measured in found.items():
            (pictures / f"{each}.png").write_bytes(quality_picture(measured, profile.quality.model_dump()))
    if as_json:
        print_json(found, indent=1)
        return
    _print(found, profile.quality.model_dump())


ROWS = {
    "triplets": "triplets",
    "found by the text alone": "redundancy.text_alone",
    "found by the image alone": "redundancy.image_alone",
    "found by neither alone": "redundancy.neither",
    "distinct-1": "distinct_1",
    "distinct-2": "distinct_2",
    "distinct-3": "distinct_3",
    "repeated texts": "repeated",
    "leak the source": "leakage",
    "answers rejected as leaking": "rejected_as_leaking",
    "words per instruction, median": "instruction_words.p50",
    "words per description, median": "description_words.p50",
}
LIMITS = {
    "redundancy.text_alone": "max_text_alone",
    "redundancy.image_alone": "max_image_alone",
    "distinct_2": "min_distinct_2",
    "leakage": "max_leakage",
}


def _print(found: dict[str, dict[str, Any]], limits: dict[str, float]) -> None:
    from rich import box
    from rich.table import Table

    from mmret.cli.terminal import console

    table = Table("", *found, "limit", box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, path in ROWS.items():
        values = [_at(measured, path) for measured in found.values()]
        limit = LIMITS.get(path)
        limit_text = "" if limit is None else f"{'at most' if limit.startswith('max') else 'at least'} {limits[limit]:.0%}"
        table.add_row(
            name,
            *("-" if v is None else f"{v:.1%}" if isinstance(v, float) and "words" not in path else f"{v:,.0f}" for v in values),
            limit_text,
        )
    console().print(table)


def _at(values: dict[str, Any], path: str) -> Any:
    for part in path.split("."):
        values = (values or {}).get(part)
    return values
