"""What the right answer is: products of float32 in numpy over every picture, and texts encoded by transformers, without our code.

Equal scores may come in any order, so an answer is right where its pictures have the scores that it says and no picture has a
better one. Cost: 0.5 TFLOP for 5,000 different questions to 100,000 pictures x 512, some ten seconds of two cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from serving.routes import Answer, Question

TOLERANCE = 1e-5
_BLOCK = 128  # questions


@dataclass(frozen=True)
class State:
    """A gallery by one checkpoint: ``vectors`` (n, d) float32, row i of ``ids[i]``; ``folder``: the checkpoint."""

    checkpoint: str
    ids: Sequence[str]
    vectors: np.ndarray
    folder: Path

    @cached_property
    def position(self) -> dict[str, int]:
        return {image_id: i for i, image_id in enumerate(self.ids)}

    @property
    def key(self) -> tuple[str, int]:
        return self.checkpoint, len(self.ids)


@dataclass(frozen=True)
class Verdict:
    """``wrong``: answers that are, the first few in words. ``states``: how many answers each state gave."""

    checked: int
    wrong: int
    said: list[str]
    states: dict[tuple[str, int], int]


def judge(answers: Iterable[tuple[Question, dict[str, Any]]], states: Iterable[State]) -> Verdict:
    """Every answer against brute force over the state that it names."""
    known = {state.key: state for state in states}
    by_state: dict[tuple[str, int], list[tuple[Question, Answer]]] = {}
    checked = 0
    for question, body in answers:
        checked += 1
        answer = Answer.of(body)
        by_state.setdefault((answer.checkpoint, answer.gallery), []).append((question, answer))
    said = []
    for key, pairs in by_state.items():
        if key in known:
            said += _wrong(known[key], pairs)
        else:
            said += [f"checkpoint {key[0]} with {key[1]} pictures, which nobody made"] * len(pairs)
    return Verdict(checked, len(said), said[:5], {key: len(pairs) for key, pairs in by_state.items()})


def _wrong(state: State, pairs: list[tuple[Question, Answer]]) -> list[str]:
    questions = list(dict.fromkeys(question for question, _ in pairs))
    answers: dict[Question, list[Answer]] = {}
    for question, answer in pairs:
        answers.setdefault(question, []).append(answer)
    vectors = query_vectors(state, questions)
    said = []
    for first in range(0, len(questions), _BLOCK):
        block = questions[first : first + _BLOCK]
        scores = vectors[first : first + _BLOCK] @ state.vectors.T
        for question, row in zip(block, scores, strict=True):
            if question.image_id is not None:
                row[state.position[question.image_id]] = -np.inf
            k = min(question.k, len(row) - (question.image_id is not None))
            best = -np.sort(-np.partition(row, len(row) - k)[len(row) - k :])
            said += [why for answer in answers[question] if (why := _why_wrong(answer, row, best, state))]
    return said


def _why_wrong(answer: Answer, row: np.ndarray, best: np.ndarray, state: State) -> str:
    if len(answer.ids) != len(best):
        return f"{len(answer.ids)} hits instead of {len(best)}"
    if len(set(answer.ids)) != len(answer.ids):
        return "a picture twice"
    if unknown := [i for i in answer.ids if i not in state.position]:
        return f"{unknown[0]} is not in this gallery"
    given, own = np.array(answer.scores), row[[state.position[i] for i in answer.ids]]
    if not (np.abs(given - own) <= TOLERANCE).all():
        return f"a score is off by {np.abs(given - own).max():.2g}"
    if not (np.abs(given - best) <= TOLERANCE).all():
        return f"better pictures are missing: scores differ by {np.abs(given - best).max():.2g}"
    return ""


def query_vectors(state: State, questions: Sequence[Question]) -> np.ndarray:
    """(n, d) float32 unit vectors: those of the gallery for pictures of the corpus, of a text the tower's."""
    vectors = np.empty((len(questions), state.vectors.shape[1]), np.float32)
    spoken = [i for i, q in enumerate(questions) if q.image_id is None]
    if spoken:
        vectors[spoken] = text_vectors(state.folder, [questions[i].text for i in spoken])
    for i, q in enumerate(questions):
        if q.image_id is not None:
            vectors[i] = state.vectors[state.position[q.image_id]]
    return vectors


def text_vectors(folder: Path, texts: Sequence[str]) -> np.ndarray:
    """(n, d) float32 unit vectors of ``texts`` by the CLIP checkpoint in ``folder``, with nothing but transformers."""
    import torch
    from transformers import CLIPModel, CLIPTokenizer

    tokenizer, model = CLIPTokenizer.from_pretrained(folder), CLIPModel.from_pretrained(folder).eval()
    parts = []
    with torch.inference_mode():
        for first in range(0, len(texts), 256):
            tokens = tokenizer(list(texts[first : first + 256]), padding=True, return_tensors="pt")
            features = model.get_text_features(**tokens).pooler_output
            parts.append(torch.nn.functional.normalize(features, dim=-1).numpy())
    return np.concatenate(parts)


def image_vectors(folder: Path, files: Sequence[bytes]) -> np.ndarray:
    """(n, d) float32 unit vectors of encoded pictures by the CLIP checkpoint in ``folder``, with nothing but transformers."""
    import io

    import torch
    from PIL import Image
    from transformers import CLIPImageProcessor, CLIPModel

    processor, model = CLIPImageProcessor.from_pretrained(folder), CLIPModel.from_pretrained(folder).eval()
    parts = []
    with torch.inference_mode():
        for first in range(0, len(files), 256):
            pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in files[first : first + 256]]
            features = model.get_image_features(**processor(pictures, return_tensors="pt")).pooler_output
            parts.append(torch.nn.functional.normalize(features, dim=-1).numpy())
    return np.concatenate(parts)


def stored_vectors(paths: Iterable[Path]) -> tuple[list[str], np.ndarray]:
    """Ids and vectors (n, d) float32 of a lake's files of vectors, in their order."""
    tables = [pq.read_table(path, partitioning=None) for path in paths]
    ids = [i for table in tables for i in table["image_id"].to_pylist()]
    parts = [t["vector"].combine_chunks().flatten().to_numpy().reshape(len(t), -1) for t in tables]
    return ids, np.concatenate(parts).astype(np.float32, copy=False)
