"""A reranker that is a stock multimodal LLM: it reads instruction, query and candidate, and the score is logit(yes) - logit(no).

Of the output head only those two rows are multiplied, at the last position. Published Qwen3-VL-Reranker folders load as they are,
with the prompt they were trained with (:mod:`mmret.retriever.models.rerank_prompts`), as does a LoRA adapter that was trained here.
Cost: a forward pass of the LLM a pair, with two pictures of up to 1,280 tokens each for Qwen3-VL (512-px squares elsewhere).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin

from mmret.devices import device_of
from mmret.errors import UserError
from mmret.retriever.models.checkpoint import RECORD
from mmret.retriever.models.kinds import adapter_base
from mmret.retriever.models.mllm import MllmRetriever, load_processor, merge_adapter
from mmret.retriever.models.pairs import Side, finite, pairs_of
from mmret.retriever.models.pictures import shortened, to_rgb, widened
from mmret.retriever.models.rerank_prompts import rerank_prompt_of
from mmret.retriever.models.stock_weights import load_stock

LOGIT_SCORE = "1_LogitScore/config.json"
"""In folders of sentence-transformers: the tokens whose logits are compared."""
_PAIRS = 8
_TEXT_TOKENS = 1024  # of a side at most, as MllmRetriever has it


class MllmReranker:
    """Scores (query, candidate) pairs; ``mmret.Reranker.load(folder)`` makes one. ``truncated`` counts texts that were cut."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, instruction: str | None = None, tokens: Any = None):
        self.model, self.reader = model.eval(), MllmRetriever(model, processor)
        self.prompt = rerank_prompt_of(model.config.model_type)
        self.instruction = instruction or self.prompt.instruction
        self.yes, self.no = tokens or (self._token(self.prompt.yes), self._token(self.prompt.no))
        self.truncated = 0
        self._overheads: dict[tuple[bool, bool], int] = {}

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto", dtype: str = "auto") -> MllmReranker:
        """Load a folder (or hub name) of stock files, or a peft adapter, which is merged into its base model. Raises UserError as
        :meth:`MllmRetriever.load`, and for a tokeniser that has no token for yes or no."""
        base = adapter_base(folder)
        how = dtype if dtype == "auto" else getattr(torch, dtype)
        model = load_stock(AutoModelForImageTextToText, base or folder, how, "an MLLM", unused=())
        if base:
            model = merge_adapter(model, folder)
        return cls(model.to(device_of(device)), load_processor(folder), trained_instruction(folder), score_tokens(folder))

    @property
    def device(self) -> torch.device:
        return self.model.device

    def score(self, queries: Sequence[Any], candidates: Sequence[Any], batch_size: int | None = None) -> np.ndarray:
        """Scores (n,) float32 of candidate i for query i: logit(yes) - logit(no), 0 where the model cannot tell.

        Sides as :meth:`mmret.retriever.models.clip_reranker.ClipReranker.score` takes them. ``batch_size``: pairs in one forward
        pass; a batch that does not fit the GPU is halved. Raises UserError for unequal lengths, an empty side, a picture that
        cannot be read, and scores that are not finite.
        """
        asked, found = pairs_of(queries, candidates)
        pairs = list(zip(asked, found, strict=True))
        order = sorted(range(len(pairs)), key=lambda row: len(pairs[row][0].text or "") + len(pairs[row][1].text or ""))
        scores, size = np.empty(len(pairs), np.float32), batch_size or _PAIRS
        for start in range(0, len(pairs), size):
            batch = order[start : start + size]
            shown = self.pictures([side.image for row in batch for side in pairs[row] if side.image is not None])
            pictures, rows = iter(shown), []
            for row in batch:
                has = [side.image is not None for side in pairs[row]]
                rows.append((self.fill(*pairs[row]), [next(pictures) for there in has if there]))
            scores[batch] = self._score(rows)
        return finite(scores)

    def fill(self, query: Side, candidate: Side, instruction: str | None = None) -> str:
        """The prompt of a pair, its texts cut to what there is room for."""
        texts = [side.text for side in (query, candidate) if side.text]
        limit = self._room(query.image is not None, candidate.image is not None) // max(1, len(texts))
        sides = [(side.image is not None, self._cut(side.text, limit)) for side in (query, candidate)]
        return self.prompt.fill(instruction or self.instruction, *sides)

    def pictures(self, images: Sequence[Any]) -> list[Any]:
        """Decoded RGB PIL images of the size the prompt asks for."""
        with ThreadPoolExecutor(min(8, max(1, torch.get_num_threads()))) as pool:
            return list(pool.map(self._sized, images))

    def scores(self, rows: Sequence[tuple[str, Sequence[Any]]]) -> torch.Tensor:
        """Scores (n,) of prompts with their pictures, with the model's gradients."""
        pictures = [picture for _, shown in rows for picture in shown]
        hidden = self.reader.hidden(self.reader.inputs([prompt for prompt, _ in rows], pictures or None))
        head = self.model.get_output_embeddings().weight
        return hidden @ (head[self.yes] - head[self.no])

    def _score(self, rows: list[tuple[str, list[Any]]]) -> np.ndarray:
        try:
            with torch.inference_mode():
                return self.scores(rows).float().cpu().numpy()
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
        half = len(rows) // 2  # outside the handler, whose traceback holds on to the tensors
        torch.cuda.empty_cache()
        return np.concatenate([self._score(rows[:half]), self._score(rows[half:])])

    def _sized(self, image: Any) -> Any:
        picture = to_rgb(image)
        if self.prompt.pixels is None:
            return picture.resize((self.prompt.image_size,) * 2)
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        steps = self.reader.processor.image_processor
        width, height = widened(*picture.size)
        height, width = smart_resize(height, width, steps.patch_size * steps.merge_size, *map(int, self.prompt.pixels))
        return picture.resize(shortened(width, height))

    def _cut(self, text: str | None, limit: int) -> str | None:
        if not text:
            return text
        kept, was_cut = self.reader._cut(text, limit)
        self.truncated += was_cut
        return kept

    def _room(self, of_query: bool, of_candidate: bool) -> int:
        """Tokens that the prompt and its pictures leave to texts. Raises UserError where none are left."""
        if (of_query, of_candidate) not in self._overheads:
            self._overheads[of_query, of_candidate] = self.blank(of_query, of_candidate)["input_ids"].shape[1]
        taken, context = self._overheads[of_query, of_candidate], self.model.config.get_text_config().max_position_embeddings
        if (room := context - taken) < 2:
            raise UserError(f"instruction and pictures take {taken} tokens of the model's {context}: shorten the instruction")
        return min(2 * _TEXT_TOKENS, room)

    def blank(self, of_query: bool, of_candidate: bool) -> dict[str, torch.Tensor]:
        """What the model takes of a pair without texts: its pictures are blank, and the largest squares that it takes."""
        side = self.prompt.image_size or int(self.prompt.pixels[1] ** 0.5)
        pictures = self.pictures([np.zeros((side, side, 3), np.uint8)] * (of_query + of_candidate))
        prompt = self.prompt.fill(self.instruction, (of_query, None), (of_candidate, None))
        return self.reader.inputs([prompt], pictures or None)

    def _token(self, word: str) -> int:
        """Id of ``word``, which has to be one token. Raises UserError where it is several."""
        tokenizer = self.reader.processor.tokenizer
        found = tokenizer.get_vocab().get(word)
        if found is None and len(ids := tokenizer(word, add_special_tokens=False)["input_ids"]) == 1:
            found = ids[0]
        if found is None:
            raise UserError(f"the model's tokeniser has no token '{word}', by which a reranker answers: take another base model")
        return found


def trained_instruction(folder: str | Path) -> str | None:
    """The instruction that a checkpoint was trained with here; None where its folder does not say."""
    record = Path(folder) / RECORD
    return json.loads(record.read_text()).get("recipe", {}).get("instruction") if record.is_file() else None


def score_tokens(folder: str | Path) -> tuple[int, int] | None:
    """Tokens for yes and no that a folder of sentence-transformers names; None for one that names none."""
    file = Path(folder) / LOGIT_SCORE
    if not file.is_file():
        return None
    named = json.loads(file.read_text())
    yes, no = named.get("true_token_id"), named.get("false_token_id")
    return None if yes is None or no is None else (yes, no)
