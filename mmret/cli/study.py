"""``mmret study``: the paper's studies in small, with a table and a picture; run again, it goes on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmret.cli.lake_option import lake_option
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.settings import parse_override

PROFILE = "studies"
"""Profile of a lake that is made for the studies."""


def study(
    lake: Annotated[str, lake_option("; made, of rendered scenes, where it does not exist")],
    images: Annotated[list[str] | None, typer.Option(help="as of mmret run: other images for a new lake")] = None,
    profile: Annotated[str | None, typer.Option(help="profile of a new lake; it must have a section 'studies'")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="runs of each variant; kept with the lake")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="any setting; kept with it")] = None,
    picture: Annotated[Path | None, typer.Option(help="where the picture goes; default: studies.png in the lake")] = None,
    only_show: Annotated[bool, typer.Option("--show", help="train nothing, show what there is")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="print the tables in markdown, for a page")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON, last, on stdout")] = False,
) -> None:
    """Train and evaluate what is missing of the studies, seed after seed, and compare."""
    store = Lake(lake)
    overrides: dict[str, Any] = dict(parse_override(text) for text in set_ or [])
    if seeds is not None:
        overrides["studies.seeds"] = seeds
    settings, choices = resolve(
        store, profile or (None if store.read_configuration() else PROFILE), images or [], overrides=overrides
    )
    if settings.studies is None:
        raise UserError(
            f"profile '{settings.name}' of {store.address} has no section 'studies': use another --lake, which gets the "
            f"profile '{PROFILE}', or add one to a profile of your own"
        )
    if not only_show:
        _run(store, settings, choices)

    from mmret.cli.terminal import console, print_json
    from mmret.studies.picture import draw_studies
    from mmret.studies.results import results

    found = results(store, settings.studies)
    if not any(v["seeds"] for s in found["studies"] for v in s["variants"]):
        raise UserError(f"{store.address} has no figures of the studies yet: leave out --show")
    out = picture or store.scratch / "studies.png"
    draw_studies(found, out)
    if as_json:
        print_json(found | {"picture": str(out)})
        return
    if as_markdown:
        print_markdown(found)
        return
    print_studies(found, console())
    print(f"picture: {out}")


def _run(store: Lake, settings: Any, choices: dict[str, Any]) -> None:
    from mmret.cli.graph import exclusive, materialize
    from mmret.cli.run_progress import RunProgress
    from mmret.settings.studies import runs

    names = [name for _, name in sorted({(seed, name) for _, _, seed, name in runs(settings.studies)})]
    settings = settings.model_copy(update={"train": tuple(dict.fromkeys(names))})
    progress = RunProgress(store, settings)
    progress.print(f"lake {store.address} · profile {settings.name} · {len(settings.train)} recipes")
    with exclusive(store, choices, "mmret study") as lease:
        materialize(lease, settings, progress)


def print_studies(found: dict[str, Any], console: Any) -> None:
    """Two tables: a row per variant; a row per difference that a claim is about, with the claim's verdict below them."""
    from rich import box
    from rich.table import Table

    from mmret.cli.terminal import printable
    from mmret.studies.tables import NOTE, claims, figures

    console.print(f"{_measured_on(found)}; mean and standard deviation over the seeds")
    for header, sections in (figures(found), claims(found)):
        table = Table(*header, box=box.SIMPLE_HEAD)
        for column in table.columns[2:]:
            column.justify = "right"
        for rows in sections:
            for row in rows:
                table.add_row(*map(printable, row), end_section=row is rows[-1])
        console.print(table)
    console.print(NOTE)


def print_markdown(found: dict[str, Any]) -> None:
    """The same for a page."""
    from mmret.cli.terminal import one_line
    from mmret.studies.tables import NOTE, claims, figures, markdown

    parts = [f"{_measured_on(found)}.", markdown(figures(found)), markdown(claims(found)), NOTE[0].upper() + NOTE[1:] + "."]
    print("\n\n".join("\n".join(one_line(line) for line in part.splitlines()) for part in parts))


def _measured_on(found: dict[str, Any]) -> str:
    return f"{found['benchmark']}: {found['queries']:,} queries over {found['gallery']:,} images, percent"
