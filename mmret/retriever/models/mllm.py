"""MMRet-MLLM: a stock multimodal LLM of ``transformers`` 5 whose last hidden state embeds an image, a text, or both.

The embedding is the normalised hidden state, after the final norm, of the last position of a prompt (paper.md, section
2); batches are padded on the left, so that position is the last one of every row. Upstream (BGE-VL-MLLM) replaced the
forward pass of Mistral for this; here the inner model is called, which returns just that state and computes no logits.
Queries carry a task instruction, candidates none: ``encode(..., instruction=...)`` makes a query. Wordings are data of
the model's family, see :mod:`mmret.retriever.models.mllm_prompts`, unless the folder brings its own, with its own pooling
(:mod:`mmret.retriever.models.asked`).

Cost: one forward pass of the LLM per row. A 512 x 512 picture is 2,928 tokens for LLaVA-NeXT (672 x 672 and an
overview, in patches of 14), 324 for Qwen2-VL and 256 for Qwen3-VL. Rows of like length share a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch.nn.functional import normalize
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from mmret.devices import device_of
from mmret.encode.quiet import silence
from mmret.errors import UserError
from mmret.retriever.models.asked import Asked
from mmret.retriever.models.chat_prompt import ChatPrompt
from mmret.retriever.models.kinds import adapter_base, asked_of
from mmret.retriever.models.mllm_prompts import Prompt, prompt_of
from mmret.retriever.models.pictures import Picture, require_list, to_rgb
from mmret.retriever.models.stock_weights import damaged, load_stock, load_stock_processor
from mmret.retriever.models.usable import usable

CLASS_TOKENS = {"clip_vision_model": 1}
"""Tokens of a LLaVA vision tower before its patches, by its model type; the others have none."""


class MllmRetriever:
    """Embeds images, texts and composed queries into one space of ``dim`` dimensions.

    ``truncated`` counts the texts that were cut since loading: at ``max_text_tokens``, or where prompt and picture
    left less of the model's context. Prompt and picture are never cut.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, max_text_tokens: int = 1024, asked: Asked | None = None):
        self.model, self.processor, self.asked = model.eval(), processor, asked
        self.prompt: Prompt | ChatPrompt = ChatPrompt(asked, processor) if asked else prompt_of(model.config.model_type)
        self.max_text_tokens = max_text_tokens
        self.truncated = 0
        self._overheads: dict[tuple[bool, str | None], int] = {}
        self._picture_tokens: dict[tuple[int, int], int] = {}
        align_processor(processor, model.config)

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto", dtype: str = "auto", max_text_tokens: int = 1024) -> MllmRetriever:
        """Load a folder (or hub name) of stock files, or a peft adapter, which is merged into its base model.

        ``device`` ``auto`` takes a GPU where there is one; ``dtype`` ``auto`` the checkpoint's own. Upstream cuts no
        text; 1,024 tokens leave those of the five benchmarks whole. Raises UserError where the folder holds no model
        of a family that has a prompt, and for an adapter without peft.
        """
        base, asked = adapter_base(folder), asked_of(folder)
        model = load_stock(
            AutoModelForImageTextToText, base or folder, dtype if dtype == "auto" else getattr(torch, dtype), "an MLLM"
        )
        processor = load_processor(folder)
        if base:
            model = merge_adapter(model, folder)
        return cls(model.to(device_of(device)), processor, max_text_tokens, asked)

    @property
    def dim(self) -> int:
        width = self.model.config.get_text_config().hidden_size
        return min(width, self.asked.dimensions or width) if self.asked else width

    @property
    def device(self) -> torch.device:
        return self.model.device

    def encode(
        self,
        images: Sequence[Picture] | None = None,
        texts: Sequence[str] | None = None,
        batch_size: int = 64,
        instruction: str | None = None,
    ) -> np.ndarray:
        """Unit vectors (n, dim) float32, in the order given.

        ``images``: paths, file contents as bytes, PIL images or uint8 arrays (h, w), (h, w, 3) or (h, w, 4); row i of
        both is image i with text i. With ``instruction`` the rows are queries of that task, without it candidates.
        ``batch_size`` is the most rows at once: a batch that does not fit the GPU is halved. Raises UserError for
        neither images nor texts, for unequal lengths, and for a picture that cannot be read.
        """
        given = [require_list(part, name) for part, name in ((images, "images"), (texts, "texts")) if part is not None]
        if not given or len({len(part) for part in given}) > 1:
            raise UserError(
                "encode needs images, texts, or as many of one as of the other; got "
                + ("neither" if not given else " and ".join(str(len(part)) for part in given))
            )
        count = len(given[0])
        kept = [None] * count if texts is None else self.cut(texts, images is not None, instruction)
        rows = np.empty((count, self.dim), np.float32)
        order = sorted(range(count), key=lambda i: len(kept[i] or ""))
        for start in range(0, count, batch_size):
            batch = order[start : start + batch_size]
            asked = [self.prompt.fill(kept[i], images is not None, instruction) for i in batch]
            shown = None if images is None else self.pictures([images[i] for i in batch])
            rows[batch] = self._embed(asked, shown)
        return usable(rows, images, texts)

    def pictures(self, images: Sequence[Picture]) -> list[Any]:
        """Decoded RGB PIL images, squashed to a square, or in the shape that the model's own files ask for."""
        with ThreadPoolExecutor(min(8, max(1, torch.get_num_threads()))) as pool:
            return list(pool.map(lambda image: self.prompt.fit(to_rgb(image)), images))

    def inputs(self, prompts: Sequence[str], pictures: Sequence[Any] | None) -> dict[str, torch.Tensor]:
        """What the model takes, padded on the left: tokens (n, longest) with their mask, and the pictures' pixels."""
        settings = {"images_kwargs": dict(self.asked.images)} if self.asked and self.asked.images and pictures else {}
        if self._begun(prompts[0]):
            settings["add_special_tokens"] = False
        with silence():
            return self.processor(
                text=list(prompts), images=pictures, padding=True, padding_side="left", return_tensors="pt", **settings
            )

    def _begun(self, prompt: str) -> bool:
        """Whether the tokeniser's begin was written by the template already."""
        begin = self.processor.tokenizer.bos_token
        return bool(self.asked and begin and prompt.startswith(begin))

    def tokens(self, prompts: Sequence[str], in_picture: Sequence[int]) -> list[list[int]]:
        """Token ids of each prompt, as :meth:`inputs` has them, of which so many stand for its picture, unpadded."""
        if not prompts:
            return []
        with silence():
            ids = self.processor.tokenizer(list(prompts), add_special_tokens=not self._begun(prompts[0]))["input_ids"]
        shown = self.model.config.image_token_id
        return [
            [token for token in row for _ in range(count if token == shown else 1)]
            for row, count in zip(ids, in_picture, strict=True)
        ]

    def picture_tokens(self, picture: Any) -> int:
        """How many tokens stand for one of :meth:`pictures`, 0 for None: read from a blank one, once for each size."""
        if picture is None:
            return 0
        if picture.size not in self._picture_tokens:
            blank = self.inputs([self.prompt.fill("a", True, None)], [Image.new("RGB", picture.size)])
            count = int((blank["input_ids"] == self.model.config.image_token_id).sum())
            self._picture_tokens[picture.size] = count
        return self._picture_tokens[picture.size]

    def hidden(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Un-normalised embeddings (n, dim) of :meth:`inputs`, in the model's dtype and with its gradients."""
        here = {
            name: value.to(self.device, self.model.dtype if value.is_floating_point() else None) for name, value in inputs.items()
        }
        states = self.model.model(**here, use_cache=False).last_hidden_state
        return POOL[self.asked.pooling if self.asked else "lasttoken"](states, here["attention_mask"])[:, : self.dim]

    def cut(self, texts: Sequence[str], image: bool, instruction: str | None) -> list[str]:
        """``texts`` without image placeholders of their own and not longer than there is room for; counts what was
        cut."""
        limit = min(self.max_text_tokens, self._room(image, instruction))
        kept = [self._cut(text, limit) for text in texts]
        self.truncated += sum(was_cut for _, was_cut in kept)
        return [text for text, _ in kept]

    def _cut(self, text: str, limit: int) -> tuple[str, bool]:
        placeholders, tokenizer = self.processor.all_special_multimodal_tokens, self.processor.tokenizer
        while found := [token for token in placeholders if token in text]:  # a removal can join up another one
            text = text.replace(found[0], "")
        if len(text.encode()) >= limit:  # a token is a byte or more
            with silence():
                ends = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            if len(ends) > limit:
                return text[: ends[limit - 1][1]], True
        return text, False

    def overhead(self, image: bool, instruction: str | None) -> int:
        """Tokens of a prompt without its text: markup, instruction and picture."""
        if (image, instruction) not in self._overheads:
            blank = [np.zeros((self.prompt.image_size,) * 2 + (3,), np.uint8)] if image else None
            bare = self.inputs([self.prompt.fill("a", image, instruction)], self.pictures(blank) if blank else None)
            self._overheads[image, instruction] = bare["input_ids"].shape[1]
        return self._overheads[image, instruction]

    def _room(self, image: bool, instruction: str | None) -> int:
        """Tokens of the context that prompt and picture leave to the text. Raises UserError where none is left."""
        taken, context = self.overhead(image, instruction), self.model.config.get_text_config().max_position_embeddings
        if (room := context - taken) < 1:
            raise UserError(
                f"instruction and picture take {taken} tokens of the model's {context}: no room for a text; shorten the instruction"
            )
        return room

    def _embed(self, prompts: Sequence[str], pictures: Sequence[Any] | None) -> np.ndarray:
        try:
            with torch.inference_mode():
                return normalize(self.hidden(self.inputs(prompts, pictures)).float(), dim=-1).cpu().numpy()
        except torch.OutOfMemoryError:
            if len(prompts) == 1:
                raise
        half = len(prompts) // 2  # outside the handler, whose traceback holds on to the tensors
        torch.cuda.empty_cache()
        parts = [(prompts[part], pictures and pictures[part]) for part in (slice(half), slice(half, None))]
        return np.concatenate([self._embed(*part) for part in parts])


def _first(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states[torch.arange(len(states), device=states.device), mask.argmax(dim=1)]


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


POOL: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "lasttoken": lambda states, _: states[:, -1],
    "cls": _first,
    "mean": _mean,
}
"""From hidden states (n, longest, width), padded on the left, and their mask to embeddings (n, width)."""


def align_processor(processor: ProcessorMixin, config: Any) -> None:
    """Set up ``processor`` for the model: a pad token, and for LLaVA the sizes by which it counts an image's tokens.

    Files of before transformers 4.46, BGE-VL-MLLM's among them, lack those sizes or count without the class token.
    """
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    if hasattr(processor, "num_additional_image_tokens"):
        processor.patch_size = config.vision_config.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        processor.num_additional_image_tokens = CLASS_TOKENS.get(config.vision_config.model_type, 0)


def load_processor(folder: str | Path) -> ProcessorMixin:
    """The processor in ``folder`` (or of a hub name); of an adapter without one, its base model's."""
    base = adapter_base(folder)
    own = any((Path(folder) / name).is_file() for name in ("processor_config.json", "preprocessor_config.json"))
    place = str(folder) if own or not base else base
    return load_stock_processor(AutoProcessor, place)


def merge_adapter(model: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    try:
        from peft import PeftModel
    except ImportError:
        raise UserError(f"{folder} is a LoRA adapter, which needs peft: pip install 'mmret[mllm]'") from None
    try:
        return PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except SafetensorError as error:
        raise damaged(folder, error) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"the adapter in {folder} does not fit its base model: {error}") from None
