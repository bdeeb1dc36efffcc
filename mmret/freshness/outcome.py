"""What a run did, as the runner tells it to the summary. Costs nothing."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Outcome:
    """What a run did, by stage: partitions launched, rows worked on, seconds. Rows are 0 where everything was current."""

    partitions: dict[str, list[str]] = field(default_factory=dict)
    rows_computed: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    total: float = 0.0
