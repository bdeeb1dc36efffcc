"""Descriptions and instructions of mined pairs (paper, section 3.2): back-ends, the answer store, and the two
stages."""

from __future__ import annotations

from mmret.annotate.answers import Tally
from mmret.annotate.protocol import Annotator, Answer, Request
from mmret.annotate.rows import describe, instruct
from mmret.annotate.store import AnswerStore

__all__ = ["AnswerStore", "Annotator", "Answer", "Request", "Tally", "describe", "instruct"]
