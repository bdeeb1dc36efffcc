"""The embedded back-end: both texts from the difference of two captions. No model, no picture, no network.

Why: the whole graph must run anywhere, at no cost, and give a training set that teaches. It knows English in general
and no corpus in particular; other scripts are compared word by word (or character by character) and quoted as they are.
It reads the captions alone, so what they do not say is not in the texts. Cost: about 0.1 ms an answer and core, and a
dictionary of some 40 MB (``parts_of_speech``), which is loaded with the first request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from json.encoder import encode_basestring as _quoted  # what json.dumps does with a text, which is all that is needed

from mmret.annotate.backends.captions.frames import description, instructions
from mmret.annotate.protocol import Answer, Experience, Kind, LoadImages, Request, request_key
from mmret.storage import Storage

VERSION = "4"
"""The version of the rules and of the dictionary; raise it with any change of wording, so that new texts are written."""
VARIED = "6"
"""That of instructions in varied wordings."""


class CaptionsAnnotator:
    """Answers come in order, each a pure function of the two captions, the seed and the pair. ``varied``: instructions are put in
    other words (:mod:`mmret.annotate.backends.captions.openings`)."""

    name = "captions"
    uses_model = False
    varied = False
    load_images: LoadImages | None = None
    storage: Storage | None = None
    experience: Experience = "none"
    skip: Callable[[int], bool] | None = None
    remarks: list[str] = []  # noqa: RUF012 - there are none

    def __init__(self, varied: bool = False):
        self.varied = varied

    def model_for(self, kind: Kind) -> str:
        return f"captions@{self._version(kind)}"

    def prompt_version(self, kind: Kind) -> str:
        return f"{kind}.captions.{self._version(kind)}"

    def key(self, request: Request) -> str:
        r = request
        if r.kind == "describe":
            return request_key(self._version("describe"), "describe", r.query_caption, r.target_caption)
        return request_key(self._version(r.kind), r.kind, r.pair_id, r.query_caption, r.target_caption, r.count, r.seed)

    def cost(self, kind: Kind, tokens_in: int, tokens_out: int) -> float:
        return 0.0

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        for i, request in enumerate(requests):
            yield i, _answer(request, self.varied)

    def _version(self, kind: Kind) -> str:
        return VARIED if self.varied and kind != "describe" else VERSION


def _answer(r: Request, varied: bool) -> Answer:
    if not r.query_caption.strip() or not r.target_caption.strip():
        return Answer(finish_reason="no_caption")
    if r.kind == "describe":
        text = description(r.query_caption, r.target_caption)
    else:
        texts = instructions(r.query_caption, r.target_caption, r.count, f"{r.seed}:{r.pair_id}", varied)
        text = None if texts is None else f"[{', '.join(map(_quoted, texts))}]"
    return Answer(finish_reason="identical_captions") if text is None else Answer(text)
