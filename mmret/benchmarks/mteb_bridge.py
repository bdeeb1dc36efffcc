"""Lets ``mteb`` (2.x, an optional package) evaluate our retrievers on its image-text tasks.

    import mmret, mteb
    from mmret.benchmarks.mteb_bridge import mteb_model
    mteb.evaluate(mteb_model(mmret.Retriever.load(folder), "me/my-retriever"), mteb.get_tasks(["CIRRIT2IRetrieval"]))

A row with image and text is one composed query or candidate, as in the paper; mteb's own CLIP wrapper sums the
modalities too, but does not normalise. mteb's CIRR and FashionIQ are M-BEIR's versions (nDCG@10) and are not the
numbers of :mod:`mmret.benchmarks.cirr.scorer` and :mod:`mmret.benchmarks.fashioniq.scorer`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmret.errors import UserError
from mmret.search.encoder import Encoder

try:
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction
except ImportError:
    raise UserError("mteb is not installed: pip install 'mteb>=2.26'") from None


class MtebRetriever(AbsEncoder):
    """``mteb``'s encoder protocol around ``encode(images, texts)``; cosine similarity."""

    def __init__(self, encoder: Encoder, name: str, revision: str = "1"):
        self.encoder = encoder
        self.takes_instruction = "instruction" in inspect.signature(encoder.encode).parameters
        self.mteb_model_meta = ModelMeta.create_empty(overwrites={
            "name": name, "revision": revision, "modalities": ["image", "text"], "framework": ["PyTorch"],
            "similarity_fn_name": ScoringFunction.COSINE, "embed_dim": getattr(encoder, "dim", None),
            "use_instructions": self.takes_instruction})  # fmt: skip

    def encode(self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, prompt_type: Any = None,
               batch_size: int = 64, **_: Any) -> np.ndarray:  # fmt: skip
        """Unit vectors (n, d) float32 of a data loader of batches with ``text``, ``image``, or both.

        Queries get the task's prompt where the encoder takes an instruction. Raises UserError for a row with neither part.
        """
        extra = {}
        if self.takes_instruction and getattr(prompt_type, "value", None) == "query":
            extra["instruction"] = self.get_instruction(task_metadata, prompt_type) or None
        return np.concatenate([self._batch(batch, batch_size, extra) for batch in inputs])

    def _batch(self, batch: Mapping[str, Sequence[Any]], size: int, extra: Mapping[str, Any]) -> np.ndarray:
        images, texts = batch.get("image"), batch.get("text")
        count = len(images if images is not None else texts or ())
        kinds: dict[tuple[bool, bool], list[int]] = {}
        for i in range(count):
            has_image = images is not None and images[i] is not None
            has_text = texts is not None and bool(texts[i])
            kinds.setdefault((has_image, has_text), []).append(i)
        if (False, False) in kinds:
            raise UserError("a row of this mteb task has neither an image nor a text")
        rows: list[np.ndarray | None] = [None] * count
        for (has_image, has_text), where in kinds.items():
            found = self.encoder.encode(images=[images[i] for i in where] if has_image else None,
                                        texts=[texts[i] for i in where] if has_text else None,
                                        batch_size=size, **extra)  # fmt: skip
            for i, row in zip(where, found, strict=True):
                rows[i] = row
        return np.stack(rows)  # type: ignore[arg-type]


def mteb_model(encoder: Encoder, name: str, revision: str = "1") -> MtebRetriever:
    """``encoder`` as a model that ``mteb.evaluate`` takes. ``name``: ``organisation/model``, as results are filed."""
    return MtebRetriever(encoder, name, revision)
