"""An executor for steps that run elsewhere: it survives steps that were given up and finish all the same, and it can be stopped.

Dagster's own ends in a KeyError where a step whose node was lost is tried again and the first try turns out to live: its end is
recorded in the same run. It also works on when whoever waits for its run is gone. Costs a look at the events that it reads anyhow.
"""

import os
from collections.abc import Sequence
from typing import Any, Protocol

import dagster as dg
from dagster._core.events import DagsterEvent
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.step_delegating import StepDelegatingExecutor


class Steps(Protocol):
    """Of a step handler, beside what Dagster asks for."""

    under_way: set[str]
    """Keys of the steps that were launched and whose end is not known yet."""

    def stop_all(self) -> None:
        """End all of them."""


class WatchedSteps(StepDelegatingExecutor):
    """Launches steps by ``handler`` and follows them in the run's events; the first end of a step that is under way counts."""

    def __init__(self, handler: Any, check_every: int):
        super().__init__(handler, retries=RetryMode.ENABLED, check_step_health_interval_seconds=check_every)
        self._handler: Steps = handler
        self._parent = os.getppid()

    def _pop_events(self, *asked: Any) -> Sequence[DagsterEvent]:
        if os.getppid() != self._parent:  # whoever launched the run was killed: somebody else takes its work up again
            self._handler.stop_all()
            raise dg.DagsterExecutionInterruptedError()
        return [event for event in super()._pop_events(*asked) if self._counts(event)]

    def _counts(self, event: DagsterEvent) -> bool:
        """Whether the event is to be heeded: not the end of a step that has ended already, as an earlier try of it may tell."""
        if not (event.is_step_success or event.is_step_failure or event.is_step_up_for_retry):
            return True
        if event.step_key not in self._handler.under_way:
            return False
        self._handler.under_way.discard(event.step_key)
        return True
