"""MegaPairs as a declarative lakehouse: mining, synthesis, training and evaluation of composed-image retrievers."""

from __future__ import annotations

import os
from typing import Any

# GNU OpenMP lets a thread that waits spin. Where two programs share the cores that costs far more than it saves: with this
# bound a training step of the demo's towers ran 17 times faster beside another one, and as fast as before alone. Torch reads
# it as it loads.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# MKL's products have other bits where operands lie at other addresses, or with another number of threads, unless it is told: two
# processes, or a run and its resumption, would then differ in the last digit. No slower where it was tried. MKL reads it at its
# first product.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def __getattr__(name: str) -> Any:
    if name == "Retriever":  # on demand: torch and transformers take seconds to import
        from mmret.retriever.models.load import Retriever

        return Retriever
    if name == "Reranker":
        from mmret.retriever.models.reranker import Reranker

        return Reranker
    raise AttributeError(f"module 'mmret' has no attribute {name!r}")
