"""MMRet-CLIP: a stock ``transformers.CLIPModel`` that embeds an image, a text, or both as one query.

The model has no parameter of its own (paper.md, section 2): one modality is ``normalize(features)``, a composed query
is ``normalize(text_features + image_features)``, the sum being of the *un-normalised* projections. So a checkpoint is
a folder that ``CLIPModel`` and ``CLIPProcessor``, upstream's BGE-VL class and ``sentence-transformers`` load as it
is. Cost: the towers' forward passes; pictures are decoded and resized on the CPU, in threads, one batch at a time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPProcessor

from mmret.devices import device_of
from mmret.encode.location import sentence_transformers_remark
from mmret.encode.quiet import silence
from mmret.errors import UserError
from mmret.ingest.pictures.decode import Unreadable, open_rgb
from mmret.retriever.models.usable import usable

Picture = str | Path | bytes | Image.Image | np.ndarray

_MODULES = "sentence_transformers.base.modules"
SENTENCE_TRANSFORMERS = {
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


class ClipRetriever:
    """Embeds images, texts and composed queries into one space of ``dim`` dimensions.

    ``truncated`` counts the texts that were cut at the text tower's limit (77 tokens for published CLIP) since loading.
    """

    def __init__(self, model: CLIPModel, processor: CLIPProcessor):
        self.model = model.eval()
        self.processor = processor
        self.truncated = 0

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto", dtype: str = "float32") -> ClipRetriever:
        """Load a folder (or hub name) of stock CLIP files. ``device`` ``auto`` takes a GPU where there is one.

        Raises UserError where the folder holds no CLIP model.
        """
        if said := sentence_transformers_remark(folder):
            raise UserError(said)
        if (Path(folder) / "config.json").is_file():
            kind = json.loads((Path(folder) / "config.json").read_text()).get("model_type")
            if kind != "clip":
                raise UserError(f"{folder} holds a model of type '{kind}'; a CLIP retriever needs a CLIPModel")
        try:
            with silence():
                model = CLIPModel.from_pretrained(str(folder), dtype=getattr(torch, dtype))
                processor = CLIPProcessor.from_pretrained(str(folder))
        except OSError as error:
            raise UserError(f"cannot load a CLIP model from {folder}: {error}") from None
        return cls(model.to(device_of(device)), processor)

    def save(self, folder: str | Path) -> None:
        """Write stock CLIPModel and CLIPProcessor files, and those of sentence-transformers, into ``folder``."""
        folder = Path(folder)
        with silence():
            self.model.save_pretrained(folder)
        self.save_processor(folder)
        for name, content in SENTENCE_TRANSFORMERS.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(content, indent=2) + "\n")

    def save_processor(self, folder: Path) -> None:
        """Write the CLIPProcessor's files into ``folder``."""
        self.processor.tokenizer.model_max_length = self.max_tokens  # where others cut a text; without it a longer one raises
        with silence():
            self.processor.save_pretrained(folder)
            self.processor.image_processor.save_pretrained(folder)  # transformers 4 (upstream's) looks for this file

    @property
    def dim(self) -> int:
        return self.model.projection_dim

    @property
    def max_tokens(self) -> int:
        return self.model.config.text_config.max_position_embeddings

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

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text with its begin and end, cut at the tower's limit; counts what was cut."""
        limit, tokenizer = self.max_tokens, self.processor.tokenizer
        with silence():  # else a warning for every text over the limit
            ids = tokenizer(list(texts))["input_ids"] if len(texts) else []
        self.truncated += sum(len(row) > limit for row in ids)
        return [row if len(row) <= limit else [*row[: limit - 1], tokenizer.eos_token_id] for row in ids]

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Un-normalised projections (n, dim) of ``pixels`` (n, 3, h, w)."""
        return feature_tensor(self.model.get_image_features(pixel_values=pixels.to(self.device, self.model.dtype)))

    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        """Un-normalised projections (n, dim) of texts."""
        return self.token_features(self.tokens(texts))

    def token_features(self, ids: Sequence[list[int]]) -> torch.Tensor:
        """Un-normalised projections (n, dim) of :meth:`tokens`. Texts of like length go through the tower together, so
        little of it is padding."""
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        groups = [order[start:end] for start, end in _like_lengths([len(ids[i]) for i in order])]
        parts = []
        for group in groups:
            with silence():
                padded = self.processor.tokenizer.pad({"input_ids": [ids[i] for i in group]}, return_tensors="pt")
            padded = padded.to(self.device)
            parts.append(feature_tensor(self.model.get_text_features(padded["input_ids"], padded["attention_mask"])))
        place = torch.empty(len(ids), dtype=torch.long)
        place[order] = torch.arange(len(ids))
        return torch.cat(parts).index_select(0, place.to(self.device))


def _like_lengths(lengths: Sequence[int], fewest: int = 32) -> list[tuple[int, int]]:
    """Cut ascending ``lengths`` into runs of at least ``fewest``: a new one begins where a length is 1.3 times its
    run's first."""
    cuts = [0]
    for i, length in enumerate(lengths):
        if i - cuts[-1] >= fewest and length > 1.3 * lengths[cuts[-1]]:
            cuts.append(i)
    if len(cuts) > 1 and len(lengths) - cuts[-1] < fewest:
        cuts.pop()
    return list(zip(cuts, [*cuts[1:], len(lengths)], strict=True))


def feature_tensor(output: Any) -> torch.Tensor:
    """The features of ``get_image_features`` or ``get_text_features``: a tensor until transformers 4, since 5 an
    output object."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def decode_images(images: Sequence[Picture]) -> list[Image.Image]:
    """:func:`to_rgb` of each, in threads."""
    with ThreadPoolExecutor(min(8, max(1, torch.get_num_threads()))) as pool:
        return list(pool.map(to_rgb, images))


def to_rgb(picture: Picture) -> Image.Image:
    """PIL RGB of a path, file content, PIL image or uint8 array; raises UserError where it is none of those."""
    try:
        if isinstance(picture, bytes | bytearray | memoryview):
            return open_rgb(bytes(picture))
        if isinstance(picture, Image.Image):
            return flatten_transparency(picture)
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8:
                raise UserError(f"an image array must be uint8, (h, w) or (h, w, channels); got {picture.dtype} {picture.shape}")
            return flatten_transparency(Image.fromarray(picture))
        if isinstance(picture, str | Path):
            return open_rgb(Path(picture).read_bytes())
    except (OSError, Unreadable) as error:
        raise UserError(f"cannot read the image {str(picture)[:200]}: {error}") from None
    raise UserError(f"an image is a path, bytes, a PIL image or a uint8 array, not {type(picture).__name__}")


def flatten_transparency(picture: Image.Image) -> Image.Image:
    """RGB with transparency on white, as :func:`mmret.ingest.pictures.decode.open_rgb` gives it."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")


def require_list(values: Sequence[Any], name: str) -> Sequence[Any]:
    if isinstance(values, str | bytes | Path | Image.Image):
        raise UserError(f"encode takes lists: write {name}=[...], also for one")
    return values
