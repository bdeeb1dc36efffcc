"""What a teacher is made of: a reranker, a retriever that is stronger or larger, or the vision-language model of annotation.

Each says its version, by which its scores are kept, without loading anything, and then scores questions: source picture, text and
candidate. Cost of one: a reranker's forward pass a question; a retriever's a distinct picture and a distinct text (an MLLM's a
distinct picture and a distinct query), whose vectors lie in a file of this machine meanwhile; of the judge, a request a question.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from mmret.annotate.candidate_judge import QUESTION, CandidateJudge
from mmret.errors import UserError
from mmret.hashing import fingerprint
from mmret.lake import Lake
from mmret.retriever.models.kinds import embedding_digest, is_reranker, query_options, reranker_digest
from mmret.retriever.train.state import Place
from mmret.retriever.train.tower import LoadImages
from mmret.settings import AnnotateSettings
from mmret.settings.recipe_links import JUDGE

_BLOCK = 64  # pictures or queries in one forward pass
_TEXTS = 65_536  # whose features are kept


class Question(NamedTuple):
    """Whether ``candidate_id`` is what ``text`` makes of ``query_id``."""

    query_id: str
    text: str
    candidate_id: str


class Teacher(Protocol):
    """Scores questions. ``model``: its version. ``block``: triplets whose questions it is asked together. ``unscored``: how many
    questions it had no score for so far, by reason."""

    model: str
    block: int
    unscored: Counter[str]

    def score(self, questions: Sequence[Question], load_images: LoadImages) -> list[float | None]:
        """A score for each question, higher is better among the candidates of one picture and text; None where it has none.

        Raises UserError for a picture that the lake does not hold.
        """
        ...


def teacher_of(lake: Lake, name: str, judge: AnnotateSettings | None = None) -> Teacher:
    """The teacher called ``name``: the checkpoint of that recipe, or with ``judge``, settings of annotation, where ``name`` is
    `judge` the model that they name. Loads no model. Raises UserError where there is no such teacher."""
    if name == JUDGE and judge is not None:
        return JudgeTeacher(lake, judge)
    folder = teacher_folder(lake, name)
    return RerankerTeacher(folder) if is_reranker(folder) else RetrieverTeacher(folder, lake.storage.scratch)


def teacher_folder(lake: Lake, teacher: str) -> Path:
    """Where the checkpoint of recipe ``teacher`` lies. Raises UserError where there is none."""
    folder = Place(lake.storage, f"checkpoints/{teacher}").folder
    if not folder.is_dir():
        raise UserError(
            f"the teacher '{teacher}' has no checkpoint in {lake.address}: train it first, "
            f"`mmret train --lake {lake.address} --recipe {teacher}`"
        )
    return folder


class RerankerTeacher:
    """The checkpoint of a reranker, in ``folder``."""

    block = 32

    def __init__(self, folder: Path):
        self.folder, self.model = folder, reranker_digest(folder)
        self.unscored: Counter[str] = Counter()
        self._scorer: Any = None

    def score(self, questions: Sequence[Question], load_images: LoadImages) -> list[float | None]:
        from mmret.retriever.models.pairs import Side  # torch

        if self._scorer is None:
            from mmret.retriever.models.reranker import Reranker

            self._scorer = Reranker.load(self.folder)
        files = _files(load_images, {i for q in questions for i in (q.query_id, q.candidate_id)})
        queries = {(q.query_id, q.text): Side(files[q.query_id], q.text) for q in questions}
        sides = [queries[q.query_id, q.text] for q in questions], [Side(files[q.candidate_id]) for q in questions]
        return self._scorer.score(*sides).tolist()


class RetrieverTeacher:
    """The checkpoint of a retriever, in ``folder``: a score is the cosine of query and candidate.

    Every picture, and of two towers every text, goes through the model once. ``scratch``: a folder for the vectors.
    """

    block = 256

    def __init__(self, folder: Path, scratch: Path):
        self.folder, self.options = folder, query_options(folder)
        self.model = fingerprint(embedding_digest(folder), self.options)
        self.unscored: Counter[str] = Counter()
        self._scratch, self._encode = scratch, None

    def score(self, questions: Sequence[Question], load_images: LoadImages) -> list[float | None]:
        if self._encode is None:
            self._encode = self._load()
        asked = list(dict.fromkeys((q.query_id, q.text) for q in questions))
        shown = list(dict.fromkeys(q.candidate_id for q in questions))
        queries, candidates = self._encode(asked, shown, load_images)
        query, candidate = ({key: n for n, key in enumerate(keys)} for keys in (asked, shown))
        rows = queries[[query[q.query_id, q.text] for q in questions]], candidates[[candidate[q.candidate_id] for q in questions]]
        return np.einsum("nd,nd->n", *rows).tolist()

    def _load(self) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
        from mmret.retriever.models.load import Retriever
        from mmret.retriever.models.two_towers import TwoTowerRetriever

        retriever = Retriever.load(self.folder)
        kind = _TwoTowers if isinstance(retriever, TwoTowerRetriever) else _WholeQueries
        return kind(retriever, self.options, _Kept(retriever.dim, self._scratch))


class _Kept:
    """Vectors (dim,) float32 by the id of a picture, in a file without a name, which ends with the process. 100 bytes of memory a
    picture."""

    def __init__(self, dim: int, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._place: dict[str, int] = {}
        self._dim = dim

    def add(self, ids: Sequence[str], make: Callable[[list[str]], np.ndarray]) -> None:
        """Keep those of ``ids`` that are not kept yet, as ``make`` gives them: (len(ids), dim)."""
        missing = [i for i in dict.fromkeys(ids) if i not in self._place]
        for start in range(0, len(missing), _BLOCK):
            some = missing[start : start + _BLOCK]
            self._file.write(np.ascontiguousarray(make(some), np.float32).tobytes())
            self._place |= {i: n for n, i in enumerate(some, len(self._place))}
        self._file.flush()

    def __getitem__(self, ids: Sequence[str]) -> np.ndarray:
        shape = len(self._place), self._dim
        return np.array(np.memmap(self._file, np.float32, "r", shape=shape)[[self._place[i] for i in ids]])


class _TwoTowers:
    """Queries are sums, so a picture is embedded once for all its texts and as a candidate, a text once for all its pictures."""

    def __init__(self, retriever: Any, options: dict[str, str], kept: _Kept):
        self.retriever, self.kept = retriever, kept
        self.texts: dict[str, np.ndarray] = {}

    def __call__(self, asked: Sequence[tuple[str, str]], shown: Sequence[str], load_images: LoadImages) -> tuple[np.ndarray, ...]:
        import torch

        from mmret.retriever.models.usable import usable

        def features(ids: list[str]) -> np.ndarray:
            files = _files(load_images, ids)
            return self.retriever.image_features(self.retriever.pixels([files[i] for i in ids])).float().cpu().numpy()

        with torch.inference_mode():
            self.kept.add([*(picture for picture, _ in asked), *shown], features)
            self._add_texts([text for _, text in asked])
        pictures = [picture for picture, _ in asked]
        queries = self.kept[pictures] + np.stack([self.texts[text] for _, text in asked])
        texts = [text for _, text in asked]
        return usable(_unit(queries), pictures, texts), usable(_unit(self.kept[shown]), list(shown), None)

    def _add_texts(self, texts: Sequence[str]) -> None:
        missing = [text for text in dict.fromkeys(texts) if text not in self.texts]
        if len(self.texts) + len(missing) > _TEXTS:
            self.texts, missing = {}, list(dict.fromkeys(texts))
        for start in range(0, len(missing), _BLOCK):
            some = missing[start : start + _BLOCK]
            self.texts.update(zip(some, self.retriever.text_features(some).float().cpu().numpy(), strict=True))


class _WholeQueries:
    """The model reads picture and text together: a query is embedded as a whole, a candidate once."""

    def __init__(self, retriever: Any, options: dict[str, str], kept: _Kept):
        self.retriever, self.options, self.kept = retriever, options, kept

    def __call__(self, asked: Sequence[tuple[str, str]], shown: Sequence[str], load_images: LoadImages) -> tuple[np.ndarray, ...]:
        def candidates(ids: list[str]) -> np.ndarray:
            files = _files(load_images, ids)
            return self.retriever.encode([files[i] for i in ids])

        self.kept.add(shown, candidates)
        queries = []
        for start in range(0, len(asked), _BLOCK):
            pictures, texts = zip(*asked[start : start + _BLOCK], strict=True)
            files = _files(load_images, pictures)
            queries.append(self.retriever.encode([files[i] for i in pictures], list(texts), **self.options))
        return np.concatenate(queries), self.kept[shown]


class JudgeTeacher:
    """The vision-language model of annotation: 0 to 1, in steps of a quarter. Raises UserError where the settings name none."""

    block = 200

    def __init__(self, lake: Lake, settings: AnnotateSettings):
        self.judge = CandidateJudge(lake, settings)
        self.model = self.judge.version
        self.unscored: Counter[str] = Counter()

    def score(self, questions: Sequence[Question], load_images: LoadImages) -> list[float | None]:
        columns = zip(*questions, strict=True)
        judged = self.judge.judge(pa.table(dict(zip(QUESTION, map(pa.array, columns), strict=True))))
        self.unscored.update(filter(None, judged["reason"].to_pylist()))
        return judged["score"].to_pylist()


def _files(load_images: LoadImages, ids: Any) -> dict[str, bytes]:
    wanted = sorted(set(ids))
    files = load_images(wanted)
    if gone := [i for i in wanted if i not in files]:
        raise UserError(f"the picture {gone[0]} of a triplet is not in the lake; run `mmret run` so that both agree again")
    return files


def _unit(vectors: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
