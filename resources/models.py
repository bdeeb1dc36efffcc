"""Models of a run: loaded when a step first needs one, shared by its steps, freed at its end.

`mmret run` launches a run per shard; within :func:`kept` those runs share what is loaded, and it is freed at the end of the block.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_kept: dict[str, Any] | None = None


def free(loaded: dict[str, Any]) -> None:
    """Let go of ``loaded`` and of the GPU memory it held."""
    import sys

    if not loaded:
        return
    loaded.clear()
    if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def kept() -> Iterator[None]:
    """Models outlive the runs inside the block, and end with it."""
    global _kept
    _kept = {}
    try:
        yield
    finally:
        free(_kept)
        _kept = None


def model(loaded: dict[str, Any], key: str, load: Callable[[], Any]) -> Any:
    """The model called ``key``: of the block if there is one, else of ``loaded``, the run's own; ``load`` makes it once."""
    models = loaded if _kept is None else _kept
    if key not in models:
        models[key] = load()
    return models[key]
