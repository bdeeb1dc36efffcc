"""Retry policies that say no to what is not theirs. Costs nothing.

Dagster asks a policy whether there is one (``if retry_policy``) while it handles what a step raised. It takes Ctrl-C in a step that
has a policy for an error that may pass: it would wait, run the step to its end, and only then stop. To a signal these answer no.
Where a step ran on another machine and that is lost, nothing was raised.
"""

import sys

import dagster as dg


class StoppableRetryPolicy(dg.RetryPolicy):
    """:class:`dagster.RetryPolicy` for errors; none while a KeyboardInterrupt or its like in Dagster is handled."""

    def __bool__(self) -> bool:
        return not isinstance(sys.exc_info()[1], KeyboardInterrupt | dg.DagsterExecutionInterruptedError)


class LostNodePolicy(dg.RetryPolicy):
    """Tries a step again whose machine or process was lost, and nothing that a step raised itself."""

    def __bool__(self) -> bool:
        return sys.exc_info()[1] is None


LOST_NODE = LostNodePolicy(max_retries=3, delay=5)
