"""The prompts of a model that brings its own: its chat template, with an instruction as the system message.

The same methods as :class:`mmret.retriever.models.mllm_prompts.Prompt`, so inference and training take either. Cost: the
template is run for each prompt, some 50 microseconds.
"""

from __future__ import annotations

from math import isqrt

from PIL import Image
from transformers import ProcessorMixin

from mmret.retriever.models.asked import Asked
from mmret.retriever.models.pictures import shortened, widened


class ChatPrompt:
    """What :class:`Asked` says, written by a processor."""

    def __init__(self, asked: Asked, processor: ProcessorMixin):
        self.asked, self.processor = asked, processor

    def fill(self, text: str | None = None, image: bool = False, instruction: str | None = None) -> str:
        """The prompt of a query with its task ``instruction``, or of a candidate where that is None: a user message of the
        picture and then the text, as the published code of Qwen3-VL-Embedding orders them. Beside a picture an empty text
        counts as absent."""
        parts: list[dict[str, str]] = [{"type": "image"}] * image
        if text is not None and (text or not image):
            parts = [*parts, {"type": "text", "text": text}]
        said = self.asked.candidate if instruction is None else instruction
        system = [{"role": "system", "content": [{"type": "text", "text": said}]}] if said else []
        return self.processor.apply_chat_template(
            [*system, {"role": "user", "content": parts}],
            chat_template=self.asked.template,
            tokenize=False,
            add_generation_prompt=self.asked.generation_prompt,
        )

    def fit(self, picture: Image.Image) -> Image.Image:
        """The picture in its own shape, made smaller where it has more than ``max_pixels``, and wider where it is too narrow for
        any processor; that one does the rest."""
        width, height = widened(*picture.size)
        if width * height > self.asked.max_pixels:
            scale = (self.asked.max_pixels / (width * height)) ** 0.5
            width, height = shortened(max(1, int(width * scale)), max(1, int(height * scale)))
        return picture if (width, height) == picture.size else picture.resize((width, height))

    @property
    def image_size(self) -> int:
        """Side of a square picture of the most pixels."""
        return isqrt(self.asked.max_pixels)
