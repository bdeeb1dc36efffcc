"""``mmret bands``: what the band of each signal does to the corpus, what the pairs chosen in it change, and which band the corpus
itself proposes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmret.atomic import replacing
from mmret.cli.lake_option import LakeOption
from mmret.cli.terminal import print_json
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.settings import Profile


def bands(
    lake: LakeOption,
    plot: Annotated[Path | None, typer.Option(help="write the histograms and the overlap of the signals as a PNG")] = None,
    propose: Annotated[
        bool, typer.Option(help="also propose a band for each signal from the oldest shard; loads the encoders")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the numbers as JSON")] = False,
) -> None:
    """Per signal: scores of the neighbours, share in the band, overlap with the other signals, and a proposed band; and what the
    chosen pairs change, as their captions tell."""
    from mmret.annotate.quality.coverage import lake_coverage
    from mmret.mine.lake_bands import lake_report

    store = Lake(lake)
    if not store.shards():
        raise UserError(f"{store.address} holds no lake yet: make one with `mmret run --lake {lake}`")
    settings, _ = resolve(store)
    found = lake_report(store, settings.mine) if store.partitions("neighbours") or not propose else None
    changes = lake_coverage(store) if found else None
    proposals = _proposals(store, settings) if propose else {}
    if plot and found:
        from mmret.mine.band_report import plot as draw

        with replacing(plot) as aside:
            aside.write_bytes(draw(found))
    if as_json:
        print_json({"report": found, "changes": changes, "proposed": proposals})
        return
    if found:
        _print_report(found, _sources(store))
    if changes:
        _print_changes(changes)
    for signal, band in proposals.items():
        value = f"{{low: {band['low']:g}, high: {band['high']:g}}}"
        print(f"proposed for {signal}: --set 'mine.bands.{signal}={value}'")


def _proposals(store: Lake, settings: Profile) -> dict[str, dict[str, float]]:
    from mmret.encode.protocol import load_encoder
    from mmret.mine.lake_bands import propose_band

    return {
        signal: propose_band(store, signal, lambda s: load_encoder(settings.encoders[s], s, store.storage)).model_dump()
        for signal in settings.mine.signals
        if store.facts(signal, store.shards()[0])
    }


def _sources(store: Lake) -> dict[str, str]:
    """Where each band comes from, as the oldest shard's candidates have it."""
    facts = store.facts("candidates", store.shards()[0])
    return facts.notes.get("band_sources", {}) if facts else {}


def _print_report(found: dict[str, Any], sources: dict[str, str]) -> None:
    from rich import box
    from rich.table import Table

    from mmret.cli.terminal import console

    table = Table(
        "signal", "band", "from", "in band", "above", "images with neighbours", "median", "full lists", box=box.SIMPLE_HEAD
    )
    for signal, of in found["signals"].items():
        table.add_row(
            signal,
            f"{of['low']:g} to {of['high']:g}",
            sources.get(signal, ""),
            f"{of['in_band']:,}",
            f"{of['above_band']:,}",
            f"{of['images_with_neighbours']:.1%}",
            f"{of['median']:g}",
            f"{of['full_lists']:.1%}",
        )
    console().print(table)
    for signals, count in found["overlap"].items():
        console().print(f"{count / max(1, found['pairs']):6.1%}  found by {signals.replace('+', ' and ')}")
    console().print(f"{found['pairs']:,} pairs in {found['images']:,} images; lists hold {found['k']} at most", style="dim")


def _print_changes(changes: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    from mmret.annotate.quality.coverage import kinds_shown, sentences
    from mmret.cli.terminal import console, printable

    table = Table("what the pairs change", "replaced", "added or removed", box=box.SIMPLE_HEAD)
    for name, replaced, one_sided in kinds_shown(changes):
        table.add_row(printable(name), f"{replaced:.1%}", f"{one_sided:.1%}")
    if table.rows:
        console().print(table)
    for line in sentences(changes):
        console().print(line, style="dim", markup=False)
