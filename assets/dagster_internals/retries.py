"""A retry policy that a signal ends: Dagster takes Ctrl-C in a step that has a policy for an error that may pass.

It would wait, then run the step to its end, and only then stop. Dagster asks a policy whether there is one (``if retry_policy``)
while it handles what the step raised; for a signal this one answers no. Costs nothing.
"""

import sys

import dagster as dg


class StoppableRetryPolicy(dg.RetryPolicy):
    """:class:`dagster.RetryPolicy` for errors; none while a KeyboardInterrupt or its like in Dagster is handled."""

    def __bool__(self) -> bool:
        return not isinstance(sys.exc_info()[1], KeyboardInterrupt | dg.DagsterExecutionInterruptedError)
