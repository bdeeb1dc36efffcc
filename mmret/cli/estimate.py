"""``mmret estimate``, and what ``mmret run --dry-run`` ends with: what annotating a lake would cost. Sends nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmret.cli.lake_option import LakeOption
from mmret.cli.terminal import print_json
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.settings import Profile, parse_override

if TYPE_CHECKING:
    from mmret.annotate.estimate import Estimate


def estimate(
    lake: LakeOption,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="a setting for this estimate, for example annotate.backend=openai"),
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="requests/s to assume; default: that of earlier runs")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the estimate as JSON")] = False,
) -> None:
    """Requests, tokens, money and time that annotating the mined pairs, and the judge of recipes, would take. Nothing is sent."""
    store = Lake(lake)
    profile, _ = resolve(store, overrides=dict(parse_override(text) for text in set_ or []))
    output_estimate(estimate_cost(store, profile, rate), as_json)


def output_estimate(found: dict[str, Any], as_json: bool) -> None:
    """Print an estimate for a person, or as one line of JSON."""
    if as_json:
        print_json(found)
    else:
        print_estimate(found)


def estimate_cost(lake: Lake, profile: Profile, rate: float | None = None) -> dict[str, Any]:
    """What captions, annotation and the judge of recipes would still take, as plain JSON values: per kind of request, and in all.

    ``rate``: requests/s to assume; None: what earlier runs measured. ``seconds`` is None where no rate is known, ``cost`` is in the
    currency of the prices in the settings. Raises UserError where no pairs are mined yet.
    """
    from mmret.annotate.backends.load import load_annotators, load_candidate_judge
    from mmret.annotate.estimate import estimate_lake
    from mmret.annotate.kinds import table_of
    from mmret.filters.estimate import estimate_judging

    captions = caption_cost(lake, profile, rate)
    kinds = [captions] if captions else []
    waits = bool(captions and captions["to_send"] and not lake.partitions("pairs"))
    if not waits:  # else the pairs, and with them all else, depend on captions that are still to be written
        annotators = load_annotators(profile.annotate)
        estimates = estimate_lake(lake, profile.annotate)
        kinds += [_kind(lake, each, annotators[table_of(each.kind)].model_for(each.kind), rate) for each in estimates]
        if (judging := estimate_judging(lake, profile)) is not None:
            kinds.append(_kind(lake, judging, load_candidate_judge(profile.annotate).model_for("candidate"), rate))
    seconds = [k["seconds"] for k in kinds]
    rejects = _rejects(lake)
    return {
        "kinds": kinds,
        "to_send": sum(k["to_send"] for k in kinds),
        "cost": round(sum(k["cost"] for k in kinds), 4),
        "seconds": None if None in seconds else round(sum(seconds), 1),
        "pairs_annotated": rejects[0],
        "rejects": rejects[1],
        **({"waits_for_captions": True} if waits else {}),
    }


def caption_cost(lake: Lake, profile: Profile, rate: float | None = None) -> dict[str, Any] | None:
    """What the captions that a model is to write would still take; None where none are wanted of it."""
    from mmret.captions.captioner import captioning_of, load_captioner
    from mmret.captions.estimate import estimate_captions

    found = estimate_captions(lake, profile)
    if found is None or not found.requests:
        return None
    return _kind(lake, found, load_captioner(captioning_of(profile)).model_for("caption"), rate)


def _kind(lake: Lake, each: Estimate, model: str, rate: float | None) -> dict[str, Any]:
    from mmret.annotate.estimate import requests_per_second

    speed = rate or requests_per_second(lake, each.kind, model)
    return {
        "kind": each.kind,
        "model": model,
        "requests": each.requests,
        "answered": each.stored,
        "to_send": each.requests - each.stored,
        "tokens_in": each.tokens_in,
        "tokens_out": each.tokens_out,
        "cost": round(each.cost, 4),
        "tokens_measured": each.measured,
        "requests_per_second": speed,
        "seconds": 0.0 if each.requests == each.stored else round(each.seconds(speed), 1) if speed else None,
    }


def _rejects(lake: Lake) -> tuple[int, dict[str, int]]:
    """Pairs that have been annotated so far, and how many of them failed or were rejected, by reason."""
    pairs, counts = 0, {}
    for shard in lake.partitions("instructions"):
        for table in ("descriptions", "instructions"):
            if facts := lake.facts(table, shard):
                pairs += facts.rows if table == "instructions" else 0
                for reason, n in facts.notes.get("reasons", {}).items():
                    counts[reason] = counts.get(reason, 0) + n
    return pairs, dict(sorted(counts.items()))


def print_estimate(found: dict[str, Any]) -> None:
    """Write the estimate for a person."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from mmret.cli.terminal import console
    from mmret.progress_reports import format_seconds

    table = Table(
        "request", "model", "in all", "to send", "tokens in", "tokens out", "cost", "requests/s", "time", box=box.SIMPLE_HEAD
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for k in found["kinds"]:
        table.add_row(
            k["kind"],
            Text(k["model"]),
            f"{k['requests']:,}",
            f"{k['to_send']:,}",
            f"{k['tokens_in']:,}",
            f"{k['tokens_out']:,}",
            f"{k['cost']:,.2f}",
            f"{k['requests_per_second']:,.1f}" if k["requests_per_second"] else "unknown",
            "unknown" if k["seconds"] is None else format_seconds(k["seconds"]),
        )
    console().print(table)
    time = "unknown: give --rate, or annotate one shard first" if found["seconds"] is None else format_seconds(found["seconds"])
    console().print(Text(f"{found['to_send']:,} requests, cost {found['cost']:,.2f} at the prices of the settings, time {time}"))
    if any(k["to_send"] and not k["tokens_measured"] for k in found["kinds"]):
        console().print("Tokens are guessed from prompts and picture sizes: expect half or twice as many until answers are stored.")
    if found.get("waits_for_captions"):
        console().print(
            "These are the captions. What the pairs cost is known once captions are written: `mmret run` goes on from there."
        )
    if found["rejects"]:
        reasons = ", ".join(f"{reason.replace('_', ' ')} {n:,}" for reason, n in found["rejects"].items())
        console().print(Text(f"of {found['pairs_annotated']:,} pairs annotated so far, without texts: {reasons}"))
