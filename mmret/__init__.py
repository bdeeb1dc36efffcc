"""MegaPairs as a declarative lakehouse: mining, synthesis, training and evaluation of composed-image retrievers."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "Retriever":  # on demand: torch and transformers take seconds to import
        from mmret.retriever.loading import Retriever

        return Retriever
    raise AttributeError(f"module 'mmret' has no attribute {name!r}")
