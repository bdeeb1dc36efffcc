"""The nodes of a Ray cluster and what each has. One question to the head in half a minute, however many steps ask."""

import time
from typing import Any, NamedTuple

_FRESH_S = 30.0
_PATIENCE_S, _AGAIN_S = 60.0, 3.0
"""So long a head is asked that has not answered yet: of nodes that nobody knows of, none would have a GPU."""


class Asked(NamedTuple):
    """What a step asks for; ``memory`` in bytes."""

    cores: float
    gpus: float
    memory: int

    def __str__(self) -> str:
        gpus = f"{self.gpus:g} GPU, " if self.gpus else ""
        return f"{self.cores:g} cores, {gpus}{self.memory / 2**30:.1f} GiB of memory"


class Nodes:
    """What the nodes that are alive have in all, whether or not it is in use. ``client``: of Ray's jobs."""

    def __init__(self, client: Any):
        self._client = client
        self._asked_at, self._found = float("-inf"), list[dict[str, float]]()

    def each(self) -> list[dict[str, float]]:
        """``CPU``, ``GPU`` and ``memory`` (bytes) of every node. What was known before, while the head does not answer."""
        began = time.monotonic()
        while time.monotonic() - self._asked_at > _FRESH_S:
            try:
                self._found = self._alive()
            except Exception:  # a head that is busy or gone: launching the step will tell
                if not self._found and time.monotonic() - began < _PATIENCE_S:
                    time.sleep(_AGAIN_S)
                    continue
            self._asked_at = time.monotonic()
        return self._found

    def _alive(self) -> list[dict[str, float]]:
        from ray.util.state import list_nodes

        alive = list_nodes(self._client.get_address(), filters=[("state", "=", "ALIVE")], limit=10_000, detail=True)
        return [dict(node.resources_total or {}) for node in alive]

    def cores(self) -> float:
        """Of all nodes together; at least 1."""
        return max(1.0, sum(node.get("CPU", 0.0) for node in self.each()))

    def most_cores(self) -> float:
        """Of the largest node; at least 1."""
        return max((node.get("CPU", 0.0) for node in self.each()), default=1.0) or 1.0

    def have_gpus(self) -> bool:
        return any(node.get("GPU") for node in self.each())

    def cannot_have(self, asked: Asked) -> str:
        """Why no node can take a step that asks for so much, in words; empty where one can."""
        nodes = self.each()
        if not nodes or any(
            node.get("CPU", 0) >= asked.cores and node.get("GPU", 0) >= asked.gpus and node.get("memory", 0) >= asked.memory
            for node in nodes
        ):
            return ""
        most = {name: max(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU", "memory")}
        return f"the most that one has are {most['CPU']:g} cores, {most['GPU']:g} GPU and {most['memory'] / 2**30:.1f} GiB"
