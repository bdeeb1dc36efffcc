"""``python -m mmret``, and what the ``mmret`` command calls: a Ctrl-C while the libraries load is told like any other.

Loading torch, Dagster and what goes with them makes 450,000 objects that live as long as the process. Python's collector looks at
all of them again and again meanwhile, a tenth of the time that loading takes; here it looks less often, and garbage in a circle
waits longer.
"""

import gc
import sys

COLLECT_AFTER = (50_000, 10, 10)
"""Objects made and not freed before the youngest are looked at (Python's own: 700), and how many looks before older ones are."""


def main() -> None:
    """Load the commands and run one."""
    gc.set_threshold(*COLLECT_AFTER)
    try:
        from mmret.cli import main as run
    except KeyboardInterrupt:
        print("\ninterrupted: nothing was begun", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
