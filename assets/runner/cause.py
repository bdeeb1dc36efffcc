"""Why a run failed, in words that a person can use: those of the UserError or of the system, not of the traceback around them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mmret.system_errors import explain_text


@dataclass(frozen=True)
class Cause:
    """``step`` ended by ``kind``, the class of its innermost error; ``traceback``: where, for a fault of the code."""

    step: str
    kind: str
    verb: str
    reason: str
    traceback: str = ""
    partition: str | None = None

    def __str__(self) -> str:
        return f"{self.step} {self.verb}: {self.reason}" + (f"\n{self.traceback}" if self.traceback else "")


def causes_of(events: Iterable[Any]) -> list[Cause]:
    """One for each failed step among a run's events, in their order."""
    return [_cause(event) for event in events if event.is_step_failure]


def failure_of(events: Iterable[Any]) -> str:
    """Why a run did not succeed, for a person: the first step that failed, or what kept the run from having any."""
    events = list(events)
    if causes := causes_of(events):
        return str(causes[0])
    for event in events:
        if (data := getattr(event, "event_specific_data", None)) and (error := getattr(data, "error", None)):
            while error.cause is not None:
                error = error.cause
            return f"the run failed: {error.message.strip().removeprefix('mmret.errors.UserError: ')}"
    return "the run failed before its first step; look at it with `make ui`"


def _cause(event: Any) -> Cause:
    data = event.step_failure_data
    error, refused = data.error, None
    told = getattr(data, "user_failure_data", None)
    partition = told.metadata["partition"].value if told and "partition" in told.metadata else None
    while error.cause is not None:
        refused, error = refused or explain_text(error.message), error.cause
    kind = error.cls_name
    if kind != "UserError" and (refused := refused or explain_text(error.message)):
        return Cause(event.step_key, kind, "stopped", refused, partition=partition)
    said = error.message.strip().removeprefix("mmret.errors.UserError: ")
    traceback = "" if kind == "UserError" else "".join(error.stack[-3:])
    return Cause(event.step_key, kind, "failed", said, traceback, partition)
