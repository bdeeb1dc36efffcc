"""The interface of a back-end: it takes requests and returns raw answers, in any order.

A back-end knows nothing of tables, caching or parsing; :mod:`mmret.annotate.answers` asks it only what the store does
not hold. ``key`` must depend on everything that decides the answer and on nothing else: prompt text, picture or caption
content, model revision, sampling. Then an answer is never paid for twice, and never reused for another question.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

from mmret.storage import Storage

Experience = Literal["none", "elsewhere", "here"]
"""What a model has answered so far: nothing, requests of other partitions of the table, or rows of this one, which is a retry."""
Kind = Literal["describe", "instruct", "both", "judge", "caption", "candidate"]
"""``both``: one call writes description and instructions; ``judge``: one call scores instructions; ``caption``: of one picture,
which stands as query and target; ``candidate``: one call scores one picture, the target, for one instruction."""
LoadImages = Callable[[Sequence[str]], dict[str, bytes]]
"""Function from image ids to the files of the pictures, by id; ids that are gone are left out."""


class Request(NamedTuple):
    """One question about one pair, or one picture. Ids are content hashes, so they stand for the pictures in a key."""

    kind: Kind
    pair_id: str
    query_id: str
    target_id: str
    query_caption: str = ""
    target_caption: str = ""
    description: str = ""  # only for ``instruct``
    count: int = 3  # instructions wanted, at least
    seed: int = 0
    attempt: int = 0  # a later attempt is another request, with another seed
    instructions: tuple[str, ...] = ()  # only for ``judge`` and ``candidate``


class Answer(NamedTuple):
    """The raw answer to a request. With ``error`` there is none (a time-out, a refused connection): it is not stored and the next
    run asks again; ``words`` are then the server's own, printable and short. ``finish_reason`` is ``stop``, ``length``, or what
    else the server or the back-end says (:mod:`mmret.annotate.finish`)."""

    text: str = ""
    finish_reason: str = "stop"
    tokens_in: int = 0
    tokens_out: int = 0
    error: str = ""
    words: str = ""


class NoMore(Exception):
    """Thrown into a back-end's ``answers``: nothing more shall be asked. A back-end with requests under way yields their answers
    and ends; any other lets it pass."""


class Annotator(Protocol):
    """A back-end. Building one may load a model; methods may be called from one thread at a time."""

    name: str
    uses_model: bool
    """Whether a model writes the answers: then they are checked, and unusable ones are asked for again with another seed."""
    load_images: LoadImages | None
    """Set by the stage, which knows where the pictures are; a back-end that does not look at them ignores it."""

    storage: Storage | None
    """The lake's, set by the stage: servers may have made themselves known there."""
    experience: Experience
    """Set by the stage. While the model has answered nothing, a failure is taken for the server's own, later for the request's."""
    skip: Callable[[int], bool] | None
    """Set while ``answers`` is at work: tells of an index whether somebody else has its answer by now. Such a request need not be
    sent, nor yielded; a back-end that answers at once ignores it. May be called from any thread."""
    remarks: list[str]
    """What the back-end found out about its servers, one sentence each, once."""

    def model_for(self, kind: Kind) -> str:
        """Name and revision of the model that answers ``kind``, in one string; stamped on every row."""
        ...

    def prompt_version(self, kind: Kind) -> str:
        """Version of the prompt (or rules) for ``kind``; stamped on every row."""
        ...

    def key(self, request: Request) -> str:
        """32 hex digits of all that decides the answer."""
        ...

    def cost(self, kind: Kind, tokens_in: int, tokens_out: int) -> float:
        """Price of so many tokens, in the currency of the settings; 0 where nothing is charged."""
        ...

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Yield (index in ``requests``, answer), each exactly once but those to ``skip``, in any order, as answers come.

        Raises UserError only where no request can succeed (unknown model, missing package); trouble with one request is
        an Answer with ``error``.
        """
        ...


def request_key(*parts: object) -> str:
    """32 hex digits that depend on every part and its place; a part may hold any text."""
    texts = [part if type(part) is str else str(part) for part in parts]
    text = "".join([f"{len(t)}:{t}" for t in texts])
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
