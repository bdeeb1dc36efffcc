"""When assets run by themselves. Measured traps: ``eager()`` and ``on_missing()`` ignore what was missing at their first
evaluation, and ``missing()`` alone fires at every tick.
"""

import dagster as dg

AC = dg.AutomationCondition


def fill_missing() -> dg.AutomationCondition:
    """Every missing partition whose inputs are there, once; a failed one waits for a person."""
    return (AC.missing() & ~AC.in_progress() & ~AC.execution_failed() & ~AC.any_deps_missing()).with_label("fill_missing")
