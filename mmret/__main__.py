"""``python -m mmret``, and what the ``mmret`` command calls: a Ctrl-C while the libraries load is told like any other."""

import sys


def main() -> None:
    """Load the commands and run one."""
    try:
        from mmret.cli import main as run
    except KeyboardInterrupt:
        print("\ninterrupted: nothing was begun", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
