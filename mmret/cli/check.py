"""``mmret check``: has filters look at the training triplets, and shows what they drop and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmret.cli.lake_option import LakeOption
from mmret.errors import UserError

if TYPE_CHECKING:
    from mmret.filters.verdicts import Verdicts
    from mmret.lake import Lake

EXAMPLES = 5
LOOKS_AT = {"consistency": "texts", "false_negatives": "hard negatives", "judge": "texts and hard negatives"}


def check(
    lake: LakeOption,
    recipe: Annotated[str | None, typer.Option(help="recipe whose filters these are")] = None,
    filter_: Annotated[
        list[str] | None, typer.Option("--filter", help="consistency, false_negatives or judge; can be repeated")
    ] = None,
) -> None:
    """Write table `verdicts`: which texts do not lead to their target, and which hard negatives a text asks for.

    Training with `filters` does so by itself where verdicts are missing; this does it beforehand, and shows some of what is left
    out. Nothing is deleted. Begun again it goes on where it was stopped.
    """
    from mmret.cli.terminal import printable, say_loading
    from mmret.filters.versions import VERSIONS
    from mmret.lake import Lake
    from mmret.lake.configuration import resolve

    store = Lake(lake)
    profile = resolve(store)[0]
    names = list(dict.fromkeys(filter_ or []))
    if unknown := [name for name in names if name not in VERSIONS]:
        raise UserError(f"--filter {unknown[0]}: there are {', '.join(VERSIONS)}")
    if recipe is not None:
        if recipe not in profile.recipes:
            raise UserError(f"no recipe '{recipe}' in the settings of {store.address}; there are {', '.join(profile.recipes)}")
        names = list(dict.fromkeys([*names, *profile.recipes[recipe].filters]))
    if not names:
        whose = f"recipe '{recipe}' has no filters" if recipe else "nothing to check by"
        raise UserError(f"{whose}: name some, `mmret check --lake {store.address} --filter consistency --filter false_negatives`")
    say_loading()
    from mmret.filters.check import check as look

    said, made = look(store, names, annotate=profile.annotate)
    for verdicts in said:
        what = LOOKS_AT[verdicts.filter]
        typer.echo(f"{verdicts.filter}: {len(verdicts.dropped):,} of {len(verdicts.rows):,} {what} to be left out")
        if verdicts.note:
            typer.echo(f"  {printable(verdicts.note)}")
        for line in examples(store, verdicts):
            typer.echo(f"  {printable(line)}")
    typer.echo(f"{made:,} new rows in table verdicts")


def examples(lake: Lake, verdicts: Verdicts, count: int = EXAMPLES) -> list[str]:
    """A line for each of some of what is dropped, those that are surest first; a picture without a caption by its id."""
    import pyarrow.compute as pc

    rows: list[dict[str, Any]] = sorted(
        verdicts.dropped.to_pylist(), key=lambda row: (row["score"] if row["text"] else -row["score"], row["pair_id"])
    )[:count]
    if not rows:
        return []
    named = {row[name] for row in rows for name in ("query_id", "target_id", "candidate_id") if row[name]}
    known = lake.read("images", columns=["image_id", "caption"], filters=pc.field("image_id").isin(sorted(named)))
    written = zip(*(known[c].to_pylist() for c in ("image_id", "caption")), strict=True)
    captions = {image_id: image_id for image_id in named} | {image_id: caption for image_id, caption in written if caption}
    lines = []
    for row in rows:
        pair = f"{captions[row['query_id']]} -> {captions[row['target_id']]}"
        what = f'"{row["text"]}"' if row["text"] else f"negative: {captions[row['candidate_id']]}"
        lines.append(f"{pair}: {what}: {row['reason']} ({', '.join(row['signals']) or 'all signals together'})")
    return lines
