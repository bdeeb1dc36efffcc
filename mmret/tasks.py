"""The kinds of query that one retriever answers, named once: training, evaluation, tables and displays all speak of them.

A task says which parts a query has and which a candidate has. Its instruction tells a model of kind ``mllm`` what is asked; a CLIP
has none. Neither torch nor a table is needed here: importing it costs nothing.

The wordings are MMEB's where it has the task (Jiang et al., arXiv 2410.05160, tables 7 to 10; all of them are in
``mmret/benchmarks/mmeb/protocol.yaml``), so that a model trained here is asked there in words that it knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

TaskName = Literal["composed", "text_to_image", "image_to_text", "image_to_image", "text_to_text", "image_text_to_image_text"]
Part = Literal["image", "text"]

COMPOSED: TaskName = "composed"
"""The task of table ``triplets``; the rows of all others are in table ``tasks``."""


@dataclass(frozen=True)
class Task:
    """``query`` and ``candidate``: the parts that each consists of, image first.

    ``shown``: the task as people read it, in tables and pages. ``instruction``: what an MLLM's query carries, candidates carry
    none; with the space before the query's text where it has one.
    """

    name: TaskName
    query: tuple[Part, ...]
    candidate: tuple[Part, ...]
    shown: str
    instruction: str

    @property
    def searches_texts(self) -> bool:
        """Whether candidates are texts alone: the gallery is the corpus's captions, not its pictures."""
        return self.candidate == ("text",)


_IMAGE, _TEXT, _BOTH = ("image",), ("text",), ("image", "text")

TASKS: Mapping[TaskName, Task] = {
    task.name: task
    for task in (
        Task(
            COMPOSED,
            _BOTH,
            _IMAGE,
            "image + text to image",
            # MegaPairs' own (paper, section 2): what `Recipe.instruction` says by default; MMEB's CIRR has another
            "Retrieve the target image that best meets the combined criteria by using both the provided image and the image "
            "retrieval instructions: ",
        ),
        Task(
            "text_to_image",
            _TEXT,
            _IMAGE,
            "text to image",
            "Find me an everyday image that matches the given caption: ",  # MMEB, MSCOCO_t2i
        ),
        Task(
            "image_to_text",
            _IMAGE,
            _TEXT,
            "image to text",
            "Find an image caption describing the given everyday image.",  # MMEB, MSCOCO_i2t
        ),
        Task(
            "image_to_image",
            _IMAGE,
            _IMAGE,
            "image to image",
            "Find a day-to-day image that looks similar to the provided image.",  # MMEB, NIGHTS
        ),
        Task(
            "text_to_text",
            _TEXT,
            _TEXT,
            "text to text",
            "Retrieve semantically similar text. ",  # MMEB has no such task: MTEB's prompt of its STS tasks
        ),
        Task(
            "image_text_to_image_text",
            _BOTH,
            _BOTH,
            "image + text to image + text",
            "Given an image, find a similar everyday image with the described changes: ",  # MMEB, CIRR
        ),
    )
}
"""By name, in the order in which they are shown and drawn."""

TASK_NAMES: tuple[TaskName, ...] = tuple(TASKS)
MADE_TASKS: tuple[TaskName, ...] = tuple(name for name in TASK_NAMES if name != COMPOSED)
"""The tasks whose rows are in table ``tasks``."""


def task_of(name: str) -> Task:
    """The task called ``name``. Raises KeyError for a name that is none.

    >>> task_of("text_to_image").query, task_of("text_to_image").candidate
    (('text',), ('image',))
    """
    return TASKS[name]
