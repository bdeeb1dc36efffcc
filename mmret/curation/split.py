"""What is held out: decided by a hash of the query image, or of a caption, so that each stays on its side when the corpus grows."""

from __future__ import annotations

from mmret.hashing import uniform
from mmret.settings import EvaluateSettings


def split_of(query_id: str, settings: EvaluateSettings) -> str:
    """``test`` for the share ``settings.held_out`` of query images, else ``train``; depends on the id alone.

    >>> split_of("0" * 32, EvaluateSettings(held_out=0))
    'train'
    """
    return "test" if uniform("held-out", query_id) < settings.held_out else "train"


def split_of_caption(said: str, settings: EvaluateSettings) -> str:
    """``test`` for the share ``settings.held_out`` of captions, else ``train``; ``said`` is a caption in the form in which captions
    are compared (:func:`mmret.mine.images.normalise_caption`), so pictures under one caption are on one side."""
    return "test" if uniform("held-out caption", said) < settings.held_out else "train"
