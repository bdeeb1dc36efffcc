"""Turns off the progress bars and advice that transformers prints, because our commands report their progress themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silence() -> Iterator[None]:
    """Inside the block transformers neither draws progress bars nor logs below errors; afterwards all is as it was."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    if not bars and level >= logging.ERROR:  # each change of a level empties the caches of all loggers
        yield
        return
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
