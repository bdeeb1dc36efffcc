"""Waits until the nodes of a Ray cluster are there, and says which: ``python nodes.py --expect 4 --seconds 300``.

Asks the head's API server, which RAY_API_SERVER_ADDRESS names. Exit code 0: all are there; 3: some are, and the time is over;
1: not one is.
"""

import argparse
import logging
import sys
import time
from typing import Any


def alive() -> tuple[list[Any], str]:
    """The nodes that are alive, as Ray describes them, and why there are none where the head does not answer."""
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    try:
        return list_nodes(filters=[("state", "=", "ALIVE")], timeout=20), ""
    except (RayStateApiException, OSError, RuntimeError, ValueError) as error:
        return [], str(error)


def main() -> int:
    parser = argparse.ArgumentParser(prog="nodes.py")
    parser.add_argument("--expect", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=300)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    end = time.monotonic() + options.seconds
    found, trouble = alive()
    while len(found) < options.expect and time.monotonic() < end:
        time.sleep(2)
        found, trouble = alive()
    for node in found:
        has = node.resources_total or {}
        print(f"Ray node {node.node_ip}: {has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs")
    if len(found) < options.expect:
        print(f"{len(found)} of {options.expect} nodes are there after {options.seconds:g} s. {trouble}", file=sys.stderr)
    return 0 if len(found) >= options.expect else 3 if found else 1


if __name__ == "__main__":
    sys.exit(main())
