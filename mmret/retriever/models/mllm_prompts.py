"""Prompts of MLLM retrievers: text as data, by model family, in ``mllm_prompts.yaml``.

Inference and training must read the very same characters, so both take them from here. Costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from mmret.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

FILE = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True)
class Prompt:
    """The parts of one family's prompts. Pictures are squashed to ``image_size`` pixels, squared, whatever their
    shape."""

    query: str
    candidate: str
    text: str
    image: str
    end: str
    image_size: int

    def fill(self, text: str | None = None, image: bool = False, instruction: str | None = None) -> str:
        """The prompt of a query with its task ``instruction``, or of a candidate where that is None.

        A part that is absent is left out (paper.md, section 2); beside a picture an empty text counts as absent.
        """
        opening = self.candidate if instruction is None else self.query.format(instruction=instruction)
        has_text = text is not None and (text != "" or not image)
        return opening + (self.text.format(text=text) if has_text else "") + (self.image if image else "") + self.end

    def fit(self, picture: Image.Image) -> Image.Image:
        """The picture squashed to the square."""
        return picture.resize((self.image_size,) * 2)


@cache
def prompts() -> dict[str, Prompt]:
    """Every family's prompt by ``model_type``."""
    families = yaml.safe_load(FILE.read_text(encoding="utf-8"))["families"]
    return {model_type: Prompt(**parts) for model_type, parts in families.items()}


def prompt_of(model_type: str) -> Prompt:
    """The prompt of a family; raises UserError for one without."""
    if model_type not in prompts():
        raise UserError(
            f"no MLLM prompt for models of type '{model_type}': there are {', '.join(prompts())}; add one to {FILE.name}"
        )
    return prompts()[model_type]
