"""Starts commands again and again, each in a fork of a process that has the libraries loaded: a start costs one second, not seven.

``python -m tests.endurance.warm`` reads one JSON line per start (``arguments``, the path ``stderr``), and answers with two lines:
the process id, and the exit code once it has ended. The fork leads a process group of its own.
"""

import json
import os
import signal
import sys
import warnings

LIBRARIES = "torch torchvision transformers PIL.Image pyarrow.parquet pyarrow.dataset duckdb lancedb lance dagster mmret.cli"
# not the assets: they read at once which lake they are for
LIBRARIES += " mmret.cli.run_progress mmret.cli.run_summary mmret.warehouse mmret.lake.compact"


def serve() -> None:
    for name in LIBRARIES.split():
        __import__(name)
    warnings.filterwarnings("ignore", "lance.* fork")  # nothing of it has run yet
    say("ready")
    for line in sys.stdin:
        wanted = json.loads(line)
        stderr = os.open(wanted["stderr"], os.O_WRONLY)
        child = os.fork()
        if not child:
            start(wanted["arguments"], stderr)
        os.close(stderr)
        say(child)
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def say(what: object) -> None:
    print(what, flush=True)


def start(arguments: list[str], stderr: int) -> None:
    """In the fork: the command as its entry point runs it. Never returns."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number, file in enumerate((nowhere, nowhere, stderr)):
        os.dup2(file, number)
    os.close(stderr)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    sys.argv = ["mmret", *arguments]
    code = 70
    try:
        from mmret.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
