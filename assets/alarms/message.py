"""The words of an alarm: what failed, where, why, and the command that goes on. One text for the log, the mail and the webhook."""

import re
import shlex
from dataclasses import dataclass
from typing import Any

from assets.alarms.groups import Group

_MOST_WORDS = 600


@dataclass(frozen=True)
class Message:
    """``fields``: the same as JSON, for receivers that are programs."""

    subject: str
    text: str
    fields: dict[str, Any]


def one_line(text: str) -> str:
    """Reasons hold captions, paths and answers of servers: one line of printable text, cut where it is long."""
    text = re.sub(r"\s+", " ", text).strip()
    text = "".join(c if c.isprintable() else "�" for c in text)
    return text if len(text) <= _MOST_WORDS else text[: _MOST_WORDS - 1] + "…"


def _names(group: Group) -> str:
    more = f" and {group['unnamed']:,} more" if group["unnamed"] else ""
    return ", ".join(group["partitions"]) + more


def headline(group: Group) -> str:
    """``pairs failed for shard-00003``, ``50 failures of descriptions, of backfill abcdefgh``."""
    stages = ", ".join(group["stages"])
    if group["count"] == 1:
        return f"{stages} failed" + (f" for {group['partitions'][0]}" if group["partitions"] else "")
    of_backfill = f", of backfill {group['backfill']}" if group["backfill"] else ""
    return f"{group['count']:,} {'more ' if group['again'] else ''}failures of {stages}{of_backfill}"


def _link(group: Group, ui: str | None) -> str:
    page = f"/runs/b/{group['backfill']}" if group["backfill"] else f"/runs/{group['run']}"
    return f"{ui.rstrip('/')}{page}" if ui else f"{page} in the UI (`make ui`)"


def compose(group: Group, lake: str, ui: str | None) -> Message:
    """The message of one group; ``lake`` is the folder that the commands are for."""
    run, status = (f"mmret {command} --lake {shlex.quote(lake)}" for command in ("run", "status"))
    reasons = {one_line(reason): count for reason, count in group["reasons"].items()}
    lines = [headline(group) + "."]
    if group["count"] > 1 and group["partitions"]:
        lines.append(f"Where: {_names(group)}")
    lines += [f"Why{f' ({count:,})' if group['count'] > 1 else ''}: {reason}" for reason, count in reasons.items()]
    link = _link(group, ui)
    lines += [f"See: {link}", f"State: {status}", f"Go on: {run} (what is finished is kept)"]
    fields = {
        "stages": group["stages"],
        "partitions": [*group["partitions"]],
        "partitions_not_named": group["unnamed"],
        "failures": group["count"],
        "reasons": reasons,
        "run": group["run"],
        "backfill": group["backfill"],
        "lake": lake,
        "link": link,
        "status": status,
        "command": run,
    }
    return Message(one_line(f"mmret: {headline(group)}"), "\n".join(lines), fields)


def compose_many(groups: list[Group], lake: str, ui: str | None) -> Message:
    """One message for more groups than anybody wants mails about."""
    parts = [compose(group, lake, ui) for group in groups]
    total = sum(group["count"] for group in groups)
    head = f"{total:,} failures of {len(groups):,} kinds"
    lines = [f"* {headline(g)}: {next(iter(p.fields['reasons']))} ({p.fields['link']})" for g, p in zip(groups, parts, strict=True)]
    shown, left = lines[:20], lines[20:]
    if left:
        shown.append(f"* and {len(left):,} more kinds")
    lines = [
        f"{head}.",
        *shown,
        f"State: {parts[0].fields['status']}",
        f"Go on: {parts[0].fields['command']} (what is finished is kept)",
    ]
    return Message(f"mmret: {head}", "\n".join(lines), {"failures": total, "kinds": [part.fields for part in parts[:20]]})
