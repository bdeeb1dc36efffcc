"""`dagster api execute_step` as a function: a step of a run, named by the environment, in this process. Costs the step."""

from dagster._cli.api import execute_step_command


def execute_step() -> int:
    """The exit status: 0 unless the step could not be executed at all; how it fared is in the run's events."""
    return execute_step_command.main(args=[], prog_name="dagster api execute_step", standalone_mode=False) or 0
