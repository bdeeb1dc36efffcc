"""Asks a vision-language model whether a candidate picture is what an instruction makes of a source picture: a score from 0 to 1.

Recipes learn from such scores (teacher ``judge``), and triplets are checked by them. The answers are stored like those of
annotation, by what was asked and not by who asked, so a question is paid for once. Cost: one request of two pictures a question
that was never asked, and a look-up of some 5 us otherwise; memory, that of ``BATCH`` requests and the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import pyarrow as pa

from mmret.annotate.answers import BATCH, Stats
from mmret.annotate.backends.load import load_candidate_judge, sampling_settings
from mmret.annotate.parse import MODEL_PARSER_VERSION
from mmret.annotate.protocol import Annotator, Request, request_key
from mmret.annotate.row_progress import RowProgress
from mmret.annotate.rows import Step, parsed_answers
from mmret.annotate.store import AnswerStore
from mmret.hashing import fingerprint
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.settings import AnnotateSettings

QUESTION = ("query_id", "text", "candidate_id")
JUDGED = pa.schema([*((name, pa.string()) for name in QUESTION), ("score", pa.float32()), ("reason", pa.string())])
"""What :meth:`CandidateJudge.judge` returns."""
Told = Callable[[int, int], None]
"""Called with how many questions are answered, and of how many."""


def judge_version(settings: AnnotateSettings, annotator: Annotator | None = None) -> str:
    """Model, prompt, and a digest of all else that decides a score; another version gives other scores. Asks nothing.

    Raises UserError where the settings name no VLM.

    >>> judge_version(AnnotateSettings(vision=EngineSettings(model="qwen3-vl")))
    'qwen3-vl candidate.v1 c7e3e5ac0f5e2c51'
    """
    annotator = annotator or load_candidate_judge(settings)
    rest = fingerprint(sampling_settings("candidate", settings), settings.seed, settings.attempts, MODEL_PARSER_VERSION)
    return f"{annotator.model_for('candidate')} {annotator.prompt_version('candidate')} {rest}"


class CandidateJudge:
    """The judge of one lake. ``annotator``: a back-end instead of the one that ``settings`` name. ``stats``: what it asked so far.

    Raises UserError where the settings name no VLM.

    >>> judge = CandidateJudge(lake, profile.annotate)
    >>> judge.judge(pa.table({"query_id": [a], "text": ["make it blue"], "candidate_id": [b]}))["score"]
    """

    def __init__(self, lake: Lake, settings: AnnotateSettings, annotator: Annotator | None = None):
        self.annotator = annotator or load_candidate_judge(settings)
        self.settings, self.stats = settings, Stats()
        self.version = judge_version(settings, self.annotator)
        self._store = AnswerStore(lake.storage)
        self.annotator.load_images, self.annotator.storage = partial(images_by_id, lake), lake.storage
        self.annotator.experience = "elsewhere" if self._store.count("candidate") else "none"

    def judge(self, rows: pa.Table, report: Told | None = None, task: str = "teacher_scores") -> pa.Table:
        """A row of :data:`JUDGED` for each of ``rows`` (columns ``query_id, text, candidate_id``), in their order: ``score`` 0 to
        1, in steps of a quarter; null with a ``reason`` where the model gave none, which a later call may mend where the request
        got no answer.

        A question that stands in several rows is asked once. ``task``: what progress is reported of. Raises UserError where no
        request can succeed; what was answered is stored.
        """
        questions = list(zip(*(rows[name].to_pylist() for name in QUESTION), strict=True))
        distinct = sorted(set(questions))  # by source picture, so that caches of the engine hit
        scores: dict[tuple[str, str, str], tuple[float | None, str | None]] = {}
        # the table of a step is that of its schema and kind, of which nothing is read for requests that are made here
        step = Step("instructions", self.annotator, self.settings, self._store, self.stats)
        progress = RowProgress(task, len(distinct), self.stats, judged=False)
        for start in range(0, len(distinct), BATCH):
            block = distinct[start : start + BATCH]
            progress.begin_batch(len(block))
            answers = parsed_answers(step, [candidate_request(*q, self.settings.seed) for q in block], "score", progress)
            reasons = [each.parsed.reason or None for each in answers]
            progress.end_batch(filter(None, reasons))
            for question, each, reason in zip(block, answers, reasons, strict=True):
                score = None if each.parsed.scores is None else (each.parsed.scores[0] - 1) / 4
                scores[question] = score, reason
            if report is not None:
                report(min(start + BATCH, len(distinct)), len(distinct))
        columns = [*(rows[name].cast(pa.string()) for name in QUESTION), *zip(*(scores[q] for q in questions), strict=True)]
        self.stats.reasons.update(Counter(reason for _, reason in scores.values() if reason))
        return pa.table(columns if questions else [[]] * len(JUDGED), schema=JUDGED)


def candidate_request(query_id: str, text: str, candidate_id: str, seed: int) -> Request:
    """The question about one candidate; what it is known by depends on nothing else, so whoever asks it finds the answer."""
    known_by = request_key(query_id, text, candidate_id)
    return Request("candidate", known_by, query_id, candidate_id, seed=seed, instructions=(text,))
