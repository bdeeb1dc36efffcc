"""Retry policies that say no to what is not theirs. Costs nothing.

Dagster asks a policy whether there is one (``if retry_policy``) while it handles what a step raised. It takes Ctrl-C in a step that
has a policy for an error that may pass: it would wait, run the step to its end, and only then stop. To a signal these answer no.
Where a step ran on another machine and that is lost, nothing was raised.
"""

import sys

import dagster as dg

from mmret.system_errors import may_pass


class StoppableRetryPolicy(dg.RetryPolicy):
    """:class:`dagster.RetryPolicy` for errors; none while a KeyboardInterrupt or its like in Dagster is handled."""

    def __bool__(self) -> bool:
        return not isinstance(sys.exc_info()[1], KeyboardInterrupt | dg.DagsterExecutionInterruptedError)


class LostNodePolicy(dg.RetryPolicy):
    """Tries a step again whose machine or process was lost, or that could not reach the lake or the history; of what a step raises
    itself nothing else."""

    def __bool__(self) -> bool:
        error = sys.exc_info()[1]
        return error is None or out_of_reach(error)


def out_of_reach(error: BaseException) -> bool:
    """Whether the lake's object store, or the Postgres of Dagster's history, which takes lines of a log, could not be reached."""
    if may_pass(error):
        return True
    cause: BaseException | None = error
    while cause is not None and type(cause).__module__.partition(".")[0] != "psycopg2":
        cause = cause.__cause__
    return type(cause).__name__ == "OperationalError"


LOST_NODE = LostNodePolicy(max_retries=3, delay=5)
