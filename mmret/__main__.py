"""``python -m mmret``: the same as the ``mmret`` command."""

from mmret.cli import main

main()
