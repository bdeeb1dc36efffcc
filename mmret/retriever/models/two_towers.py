"""A retriever of two towers, image and text, whose composed query is the sum of both: what CLIP and SigLIP have in common.

The model has no parameter of its own (paper.md, section 2): one modality is ``normalize(features)``, a composed query
is ``normalize(text_features + image_features)``, the sum being of the *un-normalised* features that the stock model gives. So a
checkpoint is a folder that the model's own classes of ``transformers`` and ``sentence-transformers`` load as it is. Cost: the
towers' forward passes; pictures are decoded and resized on the CPU, in threads, one batch at a time.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch.nn.functional import normalize
from transformers import PreTrainedModel, ProcessorMixin

from mmret.devices import device_of
from mmret.encode.quiet import silence
from mmret.errors import UserError
from mmret.retriever.models.checkpoint import model_part
from mmret.retriever.models.kinds import model_type
from mmret.retriever.models.pictures import Picture, decode_images, require_list
from mmret.retriever.models.stock_weights import load_stock, load_stock_processor
from mmret.retriever.models.usable import usable

_MODULES = "sentence_transformers.base.modules"
SENTENCE_TRANSFORMERS: dict[str, Any] = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": f"{_MODULES}.transformer.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": f"{_MODULES}.normalize.Normalize"},
    ],
    "1_Normalize/config.json": {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"},
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {
            "text": {"method": "get_text_features", "method_output_name": "pooler_output"},
            "image": {"method": "get_image_features", "method_output_name": "pooler_output"},
        },
        "module_output_name": "sentence_embedding",
    },
    "config_sentence_transformers.json": {
        "model_type": "SentenceTransformer",
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    },
}
"""Files by which sentence-transformers 6 loads the folder; what it saves itself for a CLIP model and a Normalize
module."""


class TwoTowerRetriever(ABC):
    """Embeds images, texts and composed queries into one space of ``dim`` dimensions.

    ``truncated`` counts the texts that were cut at the text tower's limit since loading. A subclass names the classes of
    ``transformers`` and says how texts become tokens and tokens features.
    """

    kind: ClassVar[str]
    """``model_type`` of the folders it loads."""
    model_class: ClassVar[type[PreTrainedModel]]
    processor_class: ClassVar[Any]
    padded: ClassVar[bool] = False
    """Whether the text tower is given every text padded to its limit."""

    def __init__(self, model: Any, processor: ProcessorMixin):
        self.model = model.eval()
        self.processor = processor
        self.truncated = 0

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto", dtype: str = "float32") -> Self:
        """Load a folder (or hub name) of stock files, of a sentence-transformers folder the part that holds them. ``device``
        ``auto`` takes a GPU where there is one.

        Raises UserError where the folder holds no such model, and where its weights are not those of the stock class.
        """
        folder = model_part(folder)
        if (Path(folder) / "config.json").is_file() and (found := model_type(folder)) != cls.kind:
            raise UserError(f"{folder} holds a model of type '{found}'; this retriever needs a {cls.model_class.__name__}")
        model = load_stock(cls.model_class, folder, getattr(torch, dtype), f"a {cls.model_class.__name__}")
        return cls(model.to(device_of(device)), cls.load_processor(folder))

    @classmethod
    def load_processor(cls, folder: str | Path) -> ProcessorMixin:
        """The processor in ``folder``. Raises UserError where a file of it is missing."""
        return load_stock_processor(cls.processor_class, folder)

    def save(self, folder: str | Path) -> None:
        """Write stock model and processor files, and those of sentence-transformers, into ``folder``."""
        folder = Path(folder)
        with silence():
            self.model.save_pretrained(folder)
        self.save_processor(folder)
        for name, content in self.engine_files().items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(content, indent=2) + "\n")

    def engine_files(self) -> dict[str, Any]:
        """Contents of the JSON files by which sentence-transformers makes these vectors, by name."""
        return SENTENCE_TRANSFORMERS

    def save_processor(self, folder: Path) -> None:
        """Write the processor's files into ``folder``."""
        self.processor.tokenizer.model_max_length = self.max_tokens  # where others cut a text; without it a longer one raises
        with silence():
            self.processor.save_pretrained(folder)
            self.processor.image_processor.save_pretrained(folder)  # transformers 4 (upstream's) looks for this file

    @property
    @abstractmethod
    def dim(self) -> int: ...

    @property
    def max_tokens(self) -> int:
        return self.model.config.text_config.max_position_embeddings

    @property
    def masks_padding(self) -> bool:
        """Whether the text tower is told what of a text is padding."""
        return True

    @property
    def device(self) -> torch.device:
        return self.model.device

    def encode(
        self, images: Sequence[Picture] | None = None, texts: Sequence[str] | None = None, batch_size: int = 64
    ) -> np.ndarray:
        """Unit vectors (n, dim) float32, in the order given.

        ``images``: paths, file contents as bytes, PIL images or uint8 arrays (h, w), (h, w, 3) or (h, w, 4). With
        ``images`` and ``texts`` both given, row i is the composed query of image i and text i. Raises UserError for
        neither or for unequal lengths, for a picture that cannot be read, and for a vector that is zero or not finite.
        """
        given = [require_list(part, name) for part, name in ((images, "images"), (texts, "texts")) if part is not None]
        if not given or len({len(part) for part in given}) > 1:
            raise UserError(
                "encode needs images, texts, or as many of one as of the other; got "
                + ("neither" if not given else " and ".join(str(len(part)) for part in given))
            )
        rows = [np.empty((0, self.dim), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(given[0]), batch_size):
                batch = slice(start, start + batch_size)
                features = [self.image_features(self.pixels(images[batch]))] if images is not None else []
                if texts is not None:
                    features.append(self.text_features(texts[batch]))
                rows.append(normalize(sum(features).float(), dim=-1).cpu().numpy())
        return usable(np.concatenate(rows), images, texts)

    def pixels(self, images: Sequence[Picture]) -> torch.Tensor:
        """Decoded, resized, normalised pictures (n, 3, h, w) float32 on the CPU."""
        return self.processor.image_processor(images=decode_images(images), return_tensors="pt")["pixel_values"]

    def raw_pixels(self, images: Sequence[Picture]) -> torch.Tensor:
        """Decoded and resized pictures (n, 3, h, w) uint8: :meth:`pixels` in a quarter of the memory."""
        return self.processor.image_processor(
            images=decode_images(images), return_tensors="pt", do_rescale=False, do_normalize=False
        )["pixel_values"].to(torch.uint8)

    def normalise(self, raw: torch.Tensor) -> torch.Tensor:
        """:meth:`pixels` (n, 3, h, w) float32 of :meth:`raw_pixels`, on the model's device."""
        steps = self.processor.image_processor
        scale = 1 / steps.rescale_factor if steps.do_rescale else 1.0
        mean, deviation = (steps.image_mean, steps.image_std) if steps.do_normalize else ([0.0] * 3, [1.0] * 3)
        mean, deviation = (torch.tensor(x, device=self.device).view(3, 1, 1) * scale for x in (mean, deviation))
        return (raw.to(self.device).float() - mean) / deviation

    @abstractmethod
    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text with its begin and end, cut at the tower's limit; counts what was cut."""

    @abstractmethod
    def token_features(self, ids: Sequence[list[int]]) -> torch.Tensor:
        """Un-normalised features (n, dim) of :meth:`tokens`."""

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Un-normalised features (n, dim) of ``pixels`` (n, 3, h, w)."""
        return feature_tensor(self.model.get_image_features(pixel_values=pixels.to(self.device, self.model.dtype)))

    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        """Un-normalised features (n, dim) of texts."""
        return self.token_features(self.tokens(texts))


def feature_tensor(output: Any) -> torch.Tensor:
    """The features of ``get_image_features`` or ``get_text_features``: a tensor until transformers 4, since 5 an
    output object."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output
