"""``mmret run``: bring a lake up to date, with progress, an estimate of what is left and a summary."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import Annotated

import typer

from mmret.cli.lake_option import lake_option
from mmret.errors import UserError
from mmret.lake import Lake, history
from mmret.lake.configuration import note_refused, resolve, source_name
from mmret.ray_cluster import ClusterUnreachable
from mmret.settings import Profile, parse_override


def run(
    lake: Annotated[str, lake_option("; made where it does not exist")],
    images: Annotated[
        list[str] | None,
        typer.Option(
            help="folder, manifest file or WebDataset tar; again for more; added to "
            "what the lake already has; each may lie below s3://, gs:// or az://. Also shapes:<n>?seed=<s>, and "
            "urls:TABLE, whose addresses are fetched"
        ),
    ] = None,
    remove: Annotated[list[str] | None, typer.Option(help="take this source out again; its rows stay, among the rejects")] = None,
    forget_missing: Annotated[
        bool,
        typer.Option("--forget-missing", help="take out pictures that are gone from their sources; else they stay"),
    ] = False,
    profile: Annotated[str | None, typer.Option(help="demo, local, paper or a YAML file; kept with the lake")] = None,
    shard_size: Annotated[int | None, typer.Option(min=1, help="rows per shard, for shards yet to be sealed")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="any setting, for example mine.k=20; kept with the lake")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="mine, then say what annotation would cost; send nothing")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print a JSON summary last, on stdout")] = False,
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="ray[:ADDRESS]", help="compute on a Ray cluster: at RAY_ADDRESS, or ray:http://head:8265"),
    ] = None,
) -> None:
    """Register new shards and materialise what is missing or stale. Run again, it does nothing."""
    from mmret.cli.terminal import say, say_loading

    store = Lake(lake)
    overrides = dict(parse_override(text) for text in set_ or [])
    settings, choices = resolve(store, profile, images or [], shard_size, overrides, remove or [])
    _try_sources(store, choices["sources"])
    _try_opt_outs(settings)

    say(f"lake {store.address} · profile {settings.name} · {', '.join(settings.corpus.sources)}")

    from mmret.cli.graph import exclusive, materialize, progress_of
    from mmret.freshness.last_run import record_path
    from mmret.freshness.up_to_date import nothing_to_do
    from mmret.warehouse import refresh_catalogue

    progress = progress_of(store, settings, on) if on is not None else None  # before the lake remembers anything
    before = store.read_configuration()
    started = time.time_ns()
    with exclusive(store, choices) as lease:
        outcome = None
        if not dry_run and on is None and dict(choices) == before and not lease.unfinished:
            outcome = nothing_to_do(store, settings, record_path(store), forget_missing)
        if outcome is None:
            say_loading()
            progress = progress or progress_of(store, settings, None)
            try:
                if dry_run and settings.captions.asks_model:
                    materialize(lease, settings, progress, until="corpus_manifest", forget_missing=forget_missing)
                    if _output_caption_cost(store, settings, as_json):
                        return
                outcome = materialize(lease, settings, progress, until="pairs" if dry_run else None, forget_missing=forget_missing)
            except ClusterUnreachable:  # no fault of the sources
                raise
            except UserError as error:
                if note_refused(store, images or settings.corpus.sources):
                    raise UserError(
                        f"{error}. The lake is still empty: name other pictures with --images and it does without these"
                    ) from None
                raise
        if dry_run:
            from mmret.cli.estimate import estimate_cost, output_estimate

            if images:
                say(taken_in(store, images, settings.corpus.sources))
            return output_estimate(estimate_cost(store, settings), as_json)
        lease.check()
        if any(outcome.rows_computed.values()):
            from mmret.annotate.merging import merge_answers
            from mmret.lake.compact import compact, needs_merging

            history.log_run(store, f"run-{len(history.runs(store)) + 1}", started, outcome.rows_computed)
            compact(store, settings.history, time.time_ns(), refresh_catalogue, lance=needs_merging(store))
            merge_answers(store.storage, time.time_ns())
        refresh_catalogue(store)
    from mmret.cli.run_summary import print_summary, summarise_run
    from mmret.cli.terminal import console, print_json

    summary = summarise_run(store, settings, outcome)
    print_summary(summary, console(stderr=as_json))  # stdout is for the JSON then
    if as_json:
        print_json(summary)


def taken_in(store: Lake, images: Sequence[str], sources: Sequence[str]) -> str:
    """What a dry run leaves behind: it mines, so the pictures of ``images`` stay; ``sources``: all that the lake has now."""
    given = list(map(source_name, images))
    kept = f"the lake keeps {', '.join(given)} and the pairs mined from it; a run without --dry-run goes on from there"
    if set(sources) <= set(given):
        return f"{kept}, and to be without it delete the lake"
    options = " ".join(f"--remove {shlex.quote(source)}" for source in given)
    return f"{kept}, and `mmret run --lake {shlex.quote(store.address)} {options}` takes it out again"


def _try_opt_outs(settings: Profile) -> None:
    """Raise UserError for an opt-out list that cannot be read, before the lake remembers it or anything is computed."""
    if settings.corpus.opt_out:
        from mmret.ingest.opt_out.lists import read_opt_outs

        read_opt_outs(settings.corpus.opt_out)


def _output_caption_cost(lake: Lake, profile: Profile, as_json: bool) -> bool:
    """Print what captions by a model would cost, if any are to be asked for: mining would send the requests. Whether it did."""
    from mmret.cli.estimate import caption_cost, estimate_cost, output_estimate

    captions = caption_cost(lake, profile)
    if captions is None or not captions["to_send"]:
        return False
    output_estimate(estimate_cost(lake, profile), as_json)
    return True


def _try_sources(store: Lake, sources: list[str]) -> None:
    """Raise UserError for a source that the lake does not have yet and that cannot be opened, before the lake remembers it."""
    known = store.read_configuration().get("sources", [])
    if unknown := [source for source in sources if source not in known]:
        from mmret.ingest.sources import open_source

        for source in unknown:
            open_source(source)
