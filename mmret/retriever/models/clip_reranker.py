"""A reranker over CLIP's towers as a folder: stock CLIP weights, the blocks above them, and the processor's files.

Cost: see :mod:`mmret.retriever.models.cross_encoder`; tokens of pictures that were read before are kept, 256 MB of them at most,
since the same pictures come again among the hits of other queries.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from mmret.devices import device_of
from mmret.encode.quiet import silence
from mmret.errors import UserError
from mmret.hashing import content_id
from mmret.retriever.models.clip import ClipRetriever
from mmret.retriever.models.cross_encoder import MODEL_TYPE, CrossEncoder, Read
from mmret.retriever.models.pairs import Side, finite, pairs_of
from mmret.retriever.models.stock_weights import damaged
from mmret.settings import RerankerSettings

KEPT_BYTES = 256 * 2**20
"""Of tokens of pictures, in memory."""
_PAIRS = 256


class ClipReranker:
    """Scores (query, candidate) pairs; ``mmret.Reranker.load(folder)`` makes one."""

    def __init__(self, model: CrossEncoder, processor: CLIPProcessor):
        self.model = model.eval()
        self.towers = ClipRetriever(model.clip, processor)
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()

    @classmethod
    def begin(cls, base: str | Path, settings: RerankerSettings, seed: int, device: str = "auto") -> ClipReranker:
        """A reranker that has learnt nothing, over the towers in folder ``base``. Raises UserError where it holds no CLIP model,
        and for a width that the heads do not divide."""
        towers = ClipRetriever.load(base, device)
        torch.manual_seed(seed)
        width = settings.width or towers.model.config.vision_config.hidden_size
        if width % settings.heads:
            raise UserError(f"reranker.heads {settings.heads} do not divide the width of {width}: give one that does")
        return cls(CrossEncoder(towers.model, settings).to(towers.device), towers.processor)

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto", dtype: str = "float32") -> ClipReranker:
        """Load what :meth:`save` wrote. Raises UserError where a file is missing or does not fit the others."""
        folder = Path(folder)
        try:
            config = json.loads((folder / "config.json").read_text())
            settings = RerankerSettings(**config["reranker"])
            with silence():
                processor = CLIPProcessor.from_pretrained(str(folder))
                model = CrossEncoder(CLIPModel(CLIPConfig.from_dict(config["clip"])), settings)
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except SafetensorError as error:
            raise damaged(folder, error) from None
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise UserError(f"cannot load a reranker from {folder}: {str(error)[:300]}; train it again") from None
        return cls(model.to(device_of(device), getattr(torch, dtype)), processor)

    def save(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors and the processor's files into ``folder``."""
        folder, model = Path(folder), self.model
        shape = {"layers": model.layers, "heads": model.heads, "width": model.width, "grid": model.grid}
        config = {"model_type": MODEL_TYPE, "reranker": shape, "clip": model.clip.config.to_dict()}
        self.towers.save_processor(folder)
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    @property
    def truncated(self) -> int:
        """Texts that were cut at the text tower's limit."""
        return self.towers.truncated

    @truncated.setter
    def truncated(self, count: int) -> None:
        self.towers.truncated = count

    @property
    def device(self) -> torch.device:
        return self.model.clip.device

    def score(self, queries: Sequence[Any], candidates: Sequence[Any], batch_size: int | None = None) -> np.ndarray:
        """Scores (n,) float32 of candidate i for query i; those of one query compare, of two they need not.

        A side is a picture (path, file contents, PIL image or uint8 array) or a tuple (picture or None, text or None); the same
        query object in several rows is read once a batch. ``batch_size``: pairs in one forward pass. Raises UserError for unequal
        lengths, an empty side, a picture that cannot be read, and scores that are not finite.

        >>> reranker.score([("cat.jpg", "the same at night")] * 2, ["a.jpg", "b.jpg"])
        """
        asked, found = pairs_of(queries, candidates)
        size, scores = batch_size or _PAIRS, [np.empty(0, np.float32)]
        with torch.inference_mode():
            for start in range(0, len(asked), size):
                scores.append(self._score(asked[start : start + size], found[start : start + size]))
        return finite(np.concatenate(scores))

    def _score(self, asked: list[Side], found: list[Side]) -> np.ndarray:
        distinct: dict[tuple[int, str | None], int] = {}
        of = [distinct.setdefault((id(side.image), side.text), len(distinct)) for side in asked]
        first = {number: side for number, side in zip(of, asked, strict=True)}
        query = self._side(False, [first[number] for number in range(len(distinct))])
        rows = self.model(query, self._side(True, found), torch.tensor(of, device=self.device))
        return rows.float().cpu().numpy()

    def _side(self, candidate: bool, sides: list[Side]) -> Read:
        images = with_image = texts = None
        if any(side.image is not None for side in sides):
            with_image = torch.tensor([side.image is not None for side in sides], device=self.device)
            own = iter(self._image_hidden([side.image for side in sides if side.image is not None]))
            rows = [next(own) if side.image is not None else None for side in sides]
            blank = torch.zeros_like(next(row for row in rows if row is not None))
            images = torch.stack([blank if row is None else row for row in rows])
        if any((side.text or "").strip() for side in sides):
            texts = self.model.read_texts(*self.padded(self.towers.tokens([side.text or "" for side in sides])))
            said = torch.tensor([bool((side.text or "").strip()) for side in sides], device=self.device)
            texts = texts._replace(there=texts.there & said[:, None])
        return self.model.side(candidate, images, with_image, texts)

    def padded(self, tokens: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids (n, longest) and which of them are there (n, longest), of token ids of any length."""
        with silence():
            made = self.towers.processor.tokenizer.pad({"input_ids": list(tokens)}, return_tensors="pt").to(self.device)
        return made["input_ids"], made["attention_mask"]

    def forget_pictures(self) -> None:
        """Read every picture anew from here on: its tokens are those of the image tower's weights of before."""
        self._kept.clear()

    def _image_hidden(self, pictures: Sequence[Any]) -> list[torch.Tensor]:
        """Tokens (1 + grid * grid, width of the tower) of each picture, read once, and not at all where they are kept."""
        keys = [content_id(bytes(p)) if isinstance(p, bytes | bytearray | memoryview) else str(id(p)) for p in pictures]
        known = {key: self._kept[key] for key in dict.fromkeys(keys) if key in self._kept}
        new = {key: p for key, p in zip(keys, pictures, strict=True) if key not in known}
        if new:
            pixels = self.towers.pixels(list(new.values())).to(self.device, self.model.clip.dtype)
            for key, row, picture in zip(new, self.model.image_hidden(pixels), new.values(), strict=True):
                known[key] = row
                if isinstance(picture, bytes):  # told again by its content; another object could have the same id
                    self._kept[key] = row.clone()  # a view would keep the whole batch in memory
        for key in known.keys() & self._kept.keys():
            self._kept.move_to_end(key)
        while self._kept and len(self._kept) * next(iter(self._kept.values())).nbytes > KEPT_BYTES:
            self._kept.popitem(last=False)
        return [known[key] for key in keys]
