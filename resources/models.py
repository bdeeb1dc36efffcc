"""Models of a run: loaded when a step first needs one, shared by its steps, freed at its end.

`mmret run` launches a run per shard; within :func:`shared_models` those runs share what is loaded, and it is freed at the end of
the block.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_shared: dict[str, Any] | None = None


def free(loaded: dict[str, Any]) -> None:
    """Drop the models in ``loaded`` and free the GPU memory that they used."""
    import sys

    if not loaded:
        return
    loaded.clear()
    if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def shared_models() -> Iterator[None]:
    """Inside the block, models stay loaded from one run to the next; they are freed at its end."""
    global _shared
    _shared = {}
    try:
        yield
    finally:
        free(_shared)
        _shared = None


def model(loaded: dict[str, Any], key: str, load: Callable[[], Any]) -> Any:
    """The model called ``key``, shared within a block of :func:`shared_models`, else within ``loaded``; ``load`` loads it once."""
    models = loaded if _shared is None else _shared
    if key not in models:
        models[key] = load()
    return models[key]
