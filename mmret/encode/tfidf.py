"""Captions by the words they share (tf-idf): the caption signal that knows words and no model.

Two captions that differ in one word are near each other here, whichever word that is, whereas a model's vectors are moved far by
some words and hardly by others. So the neighbours of a picture differ from it in many ways, each of them a difference that the
captions tell. How much a word counts is learnt from the corpus once (:func:`inverse_frequencies`) and kept in the model's folder;
a word that came later counts as the rarest. Words are runs of letters and digits in lower case; each ideograph, kana and pictogram
is one, and each cluster of the Thai, Lao, Khmer and Burmese scripts, which are written without spaces.

Order does not count: *a red hat and a blue scarf* and *a blue hat and a red scarf* are the same caption to it, so such a pair is
taken for near-duplicates and neither target nor negative (63 of the demo's 8,000 captions have such a twin, nearly all the same
scene in other words).

Every word has a direction of ``WIDTH`` signs, drawn from its hash, and a caption is the sum of its words' directions by their
weights: cosines are those of the exact tf-idf vectors to within 0.04 (one standard deviation), with no vocabulary to keep in step.
Cost: 0.4 s for the demo's 8,000 captions, stored, and 130 MB at most.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import regex

from mmret import encode
from mmret.atomic import write_text
from mmret.encode.location import Location
from mmret.errors import UserError
from mmret.settings import EncoderSettings

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

WIDTH = 512
FILE = "tfidf.json"
RULE = "words1"
"""Name of the rule by which a text is cut into words; another rule gives other vectors."""
_ALONE, _CLUSTERS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{So}", r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(
    rf"(?V1)[{_ALONE}]|[{_CLUSTERS}]\p{{M}}*|[[\p{{L}}\p{{N}}]--[{_ALONE}{_CLUSTERS}]][[\p{{L}}\p{{N}}\p{{M}}]--[{_ALONE}{_CLUSTERS}]]*"
)
_KEPT = 65_536


def words_of(text: str) -> list[str]:
    """The words of ``text``, in order.

    >>> words_of("A large Red star")
    ['a', 'large', 'red', 'star']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def inverse_frequencies(captions: Iterable[str]) -> dict[str, float]:
    """ln(n / count) of every word, of n captions of which ``count`` have it; a word of all captions weighs nothing.

    Under ``""``, the empty word: ln(n + 1), the weight of a word that no caption has.
    """
    counts: Counter[str] = Counter()
    number = 0
    for caption in captions:
        number += 1
        counts.update(set(words_of(caption)))
    return {"": math.log(number + 1)} | {word: math.log(number / count) for word, count in sorted(counts.items())}


def save_tfidf(weights: Mapping[str, float], folder: Path) -> dict[str, float]:
    """Write ``folder``/tfidf.json, which :class:`TfidfEncoder` loads; returns the weights as they were written."""
    rounded = {word: round(weight, 6) for word, weight in weights.items()}
    write_text(folder / FILE, json.dumps({"width": WIDTH, "weights": rounded}, ensure_ascii=False))
    return rounded


class TfidfEncoder:
    """See :class:`mmret.encode.protocol.Encoder`. It reads texts only."""

    on_cpu = True

    def __init__(self, weights: Mapping[str, float], location: Location, batch_size: int | None = None):
        self.weights = dict(weights)
        self.model = f"{location.label}+{RULE}" + (f"+v{encode.VERSION}" if encode.VERSION != "1" else "")
        self.width = WIDTH
        self.batch_size = batch_size or 1024
        self._directions: dict[str, np.ndarray] = {}

    @classmethod
    def load(cls, settings: EncoderSettings, signal: str, location: Location) -> TfidfEncoder:
        """Raises UserError for a signal of pictures and for a folder without the weights of words."""
        if signal != "caption":
            raise UserError(f"encoders.{signal}.kind is 'tfidf', which compares words: it is for captions only")
        try:
            found = json.loads(((location.path or Path(location.name)) / FILE).read_text(encoding="utf-8"))
            if found["width"] != WIDTH or not isinstance(found["weights"][""], float):
                raise ValueError(f"a width of {found['width']}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"encoders.caption.model: {location.name} holds no weights of words ({FILE}: {error}); name towers/tfidf, which a "
                "lake of profile demo trains itself"
            ) from None
        return cls(found["weights"], location, settings.batch_size)

    def preprocess(self, data: bytes) -> Tensor:
        raise UserError(f"{self.model} compares words and sees no pictures: it is for captions only")

    def encode_images(self, images: Sequence[Image.Image] | Tensor) -> np.ndarray:
        raise UserError(f"{self.model} compares words and sees no pictures: it is for captions only")

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self._vector(text) for text in texts]) if len(texts) else np.empty((0, WIDTH), np.float32)

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        return [False] * len(texts)

    def _vector(self, text: str) -> np.ndarray:
        """A text whose words all weigh nothing, or that has none, is the direction of the empty word."""
        vector = np.zeros(WIDTH, np.float32)
        for word in sorted(set(words_of(text))):
            if weight := self.weights.get(word, self.weights[""]):
                vector += np.float32(weight) * self._direction(word)
        length = float(np.linalg.norm(vector))
        return vector / length if length > 0 else self._direction("") / math.sqrt(WIDTH)

    def _direction(self, word: str) -> np.ndarray:
        if word not in self._directions:
            if len(self._directions) >= _KEPT:
                self._directions.clear()
            bits = np.frombuffer(hashlib.blake2b(word.encode(), digest_size=WIDTH // 8).digest(), np.uint8)
            self._directions[word] = np.unpackbits(bits).astype(np.float32) * 2 - 1
        return self._directions[word]
