"""What came of one Dagster run, in plain values that one process can tell another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from assets.runner.cause import failure_of


@dataclass(frozen=True)
class Launched:
    """``seconds`` by step that succeeded, ``computed`` rows by table; ``failure``: why the run did not succeed, for a person."""

    seconds: dict[str, float]
    computed: dict[str, int]
    failure: str | None = None

    @classmethod
    def of(cls, result: Any) -> "Launched":
        """Of Dagster's own result of a run."""
        events: Sequence[Any] = result.all_events
        seconds = {e.step_key: e.step_success_data.duration_ms / 1000 for e in events if e.is_step_success}
        computed: dict[str, int] = {}
        for event in result.get_asset_materialization_events():
            table = event.asset_key.path[-1]
            computed[table] = computed.get(table, 0) + event.materialization.metadata["rows_computed"].value
        return cls(seconds, computed, None if result.success else failure_of(events))
