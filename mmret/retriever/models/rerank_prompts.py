"""Prompts of MLLM rerankers: text as data, by model family, in ``rerank_prompts.yaml``. Costs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from mmret.errors import UserError

FILE = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True)
class RerankPrompt:
    """The parts of one family's prompt. ``yes`` and ``no``: the tokens whose logits are compared. Pictures are squashed to
    ``image_size`` pixels, squared; where that is None they keep their shape, between ``pixels`` in area. ``instruction``: what a
    model is told that does not say what it was trained with."""

    query: str
    candidate: str
    image: str
    end: str
    yes: str
    no: str
    instruction: str
    image_size: int | None = None
    pixels: tuple[int, int] | None = None

    def fill(self, instruction: str, query: tuple[bool, str | None], candidate: tuple[bool, str | None]) -> str:
        """The prompt of a pair; of each side whether it has a picture, and its text."""
        opening = self.query.format(instruction=instruction)
        return opening + self._side(*query) + self.candidate + self._side(*candidate) + self.end

    def _side(self, image: bool, text: str | None) -> str:
        return (self.image if image else "") + (text or "")


@cache
def rerank_prompts() -> dict[str, RerankPrompt]:
    """Every family's prompt by ``model_type``."""
    families = yaml.safe_load(FILE.read_text(encoding="utf-8"))["families"]
    return {
        model_type: RerankPrompt(**{**parts, "pixels": tuple(parts["pixels"]) if parts.get("pixels") else None})
        for model_type, parts in families.items()
    }


def rerank_prompt_of(model_type: str) -> RerankPrompt:
    """The prompt of a family; raises UserError for one without."""
    if model_type not in rerank_prompts():
        raise UserError(
            f"no reranking prompt for a model of type '{model_type}': there are {', '.join(rerank_prompts())}; {FILE.name} has them"
        )
    return rerank_prompts()[model_type]
