"""Queries of every direction that a corpus has an answer to: pictures by captions, captions by pictures, and alike by alike.

A model trained for composed queries alone can lose what it could before, unnoticed; so every evaluation asks these as well. Queries
are the held-out captions (:func:`mmret.curation.split.split_of_caption`) and their pictures: no row from caption to picture, back,
or between alike ones was trained on that has such a caption on either side. What is right:

* text to image, image to text: a picture's own caption and back; pictures under the same caption are all right.
* image to image: pictures under the same caption; on a ``shapes`` corpus scenes with the same attributes, however described.
* text to text: on a ``shapes`` corpus captions that say the same in other words. Elsewhere nothing tells which captions do.
* image + text to image + text: the held-out triplets, whose candidates carry their captions; a picture without one is none.

A direction of alike by alike with fewer than ``ENOUGH`` queries is left out, and so is the last where captions are missing and so
few triplets remain; it is said why.
Cost: the text tower once over at most ``evaluate.texts`` captions, both towers over at most ``evaluate.captioned_pictures``; the
pictures' own vectors are those that search keeps.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from mmret.benchmarks.edits import ATTRIBUTES
from mmret.benchmarks.triplets import Query
from mmret.curation.split import split_of_caption
from mmret.hashing import fingerprint, uniform
from mmret.mine.images import normalise_caption
from mmret.ranking import recall_at, target_ranks
from mmret.search.encoder import Encoder
from mmret.settings import EvaluateSettings
from mmret.tasks import TASKS, Task, TaskName

ENOUGH = 20
"""Queries of image to image and text to text without which their figure would say nothing."""
_BLOCK = 256  # pictures in memory at once


@dataclass(frozen=True)
class Corpus:
    """What directions ask of a corpus, a row a picture: its id, its caption, and what it shows as far as that is known.

    ``captions``: as they are encoded; ``said``: in the form in which they are compared, empty where there is none; ``scenes``: the
    attributes of a scene of a ``shapes`` corpus, else None.
    """

    ids: list[str]
    captions: list[str]
    said: list[str]
    scenes: list[str | None]

    @classmethod
    def of(cls, images: pa.Table) -> Corpus:
        """From rows of table ``images`` with ``image_id, caption, root, extra``."""
        captions = [caption or "" for caption in images["caption"].to_pylist()]
        roots, extras = images["root"].to_pylist(), images["extra"].to_pylist()
        scenes = [_scene(extra) if root.startswith("shapes:") else None for root, extra in zip(roots, extras, strict=True)]
        return cls(images["image_id"].to_pylist(), captions, [normalise_caption(caption) for caption in captions], scenes)

    @property
    def shows(self) -> list[str]:
        """What each picture shows as far as it is known: its scene, else what its caption says; empty where there is neither."""
        return [scene or said for scene, said in zip(self.scenes, self.said, strict=True)]


def _scene(extra: str) -> str | None:
    found = json.loads(extra)
    return "\x1f".join(found[name] for name in ATTRIBUTES) if all(isinstance(found.get(n), str) for n in ATTRIBUTES) else None


@dataclass(frozen=True)
class Direction:
    """The queries of one direction, (q,) each, and what is searched in.

    A query has a picture, a text or both: ``images`` and ``texts`` are empty where it has none, and so are the candidates'
    ``gallery_images`` and ``gallery_texts``; both are empty where all pictures of the corpus are searched. ``right``, ``excluded``:
    places in the gallery.
    """

    task: Task
    images: list[str]
    texts: list[str]
    right: list[list[int]]
    excluded: list[list[int]]
    gallery_images: list[str] = field(default_factory=list)
    gallery_texts: list[str] = field(default_factory=list)

    @property
    def searches_all(self) -> bool:
        """Whether the gallery is every picture of the corpus."""
        return not self.gallery_images and not self.gallery_texts

    def key(self) -> str:
        """A fingerprint of all that the figures depend on, besides the model and the pictures that there are."""
        return fingerprint(
            self.task.name,
            self.task.instruction,
            *(self.images, self.texts, self.right, self.excluded, self.gallery_images, self.gallery_texts),
        )


def directions(corpus: Corpus, triplets: Sequence[Query], settings: EvaluateSettings) -> tuple[list[Direction], dict[str, str]]:
    """Every direction that ``corpus`` has queries for, and why the others are left out, by name.

    ``triplets``: held-out triplets, of which image + text to image + text is made.

    >>> asked, left_out = directions(Corpus.of(images), held_out_triplets(lake, profile.evaluate), profile.evaluate)
    """
    held_out = [row for row, said in enumerate(corpus.said) if said and split_of_caption(said, settings) == "test"]
    held_out = sorted(held_out, key=lambda row: uniform("evaluate", corpus.ids[row]))[: settings.max_queries]
    alike = _said_alike(corpus, held_out)
    needed = {corpus.said[row] for row in held_out}.union(*alike.values())
    texts = _texts(corpus, needed, settings)
    ids, captioned = set(corpus.ids), {image_id for image_id, said in zip(corpus.ids, corpus.said, strict=True) if said}
    known = [q for q in triplets if q.reference in ids and q.targets <= ids]
    answerable = [q for q in known if q.targets <= captioned]
    made = [
        *_own_captions(corpus, held_out, texts),
        _alike_pictures(corpus, held_out),
        _alike_texts(corpus, alike, texts),
        _captioned(corpus, answerable, settings),
    ]
    left_out: dict[str, str] = {}
    if len(answerable) < min(ENOUGH, len(known)):
        left_out["image_text_to_image_text"] = (
            f"{len(answerable)} of {len(known)} held-out triplets have a target with a caption; {ENOUGH} would be enough"
        )
    for direction in made:
        if direction.task.name in left_out:
            continue
        name, queries = direction.task.name, len(direction.right)
        if queries < (ENOUGH if name in _WHY else 1):
            left_out[name] = (
                f"{queries} of {len(held_out)} held-out pictures {_WHY[name]}" if name in _WHY else "nothing is held out"
            )
    return [direction for direction in made if direction.task.name not in left_out], left_out


_WHY: Mapping[TaskName, str] = {
    "image_to_image": f"have another that is known to show the same; {ENOUGH} would be enough",
    "text_to_text": f"have a caption that is known to be said in other words, as a shapes corpus tells; {ENOUGH} would be enough",
}


def _places(values: Iterable[str | None], wanted: set[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for row, value in enumerate(values):
        if value in wanted:
            found[value].append(row)
    return found


def _texts(corpus: Corpus, needed: set[str], settings: EvaluateSettings) -> dict[str, tuple[int, str]]:
    """The captions searched in, by what they say: place in the gallery, and text. ``needed`` and a sample by hash."""
    distinct = dict(reversed(list(zip(corpus.said, corpus.captions, strict=True))))  # the first text of each
    distinct.pop("", None)
    rest = sorted(distinct.keys() - needed, key=lambda said: (uniform("evaluate text", said), said))
    chosen = sorted(needed | set(rest[: max(0, settings.texts - len(needed))]))
    return {said: (place, distinct[said]) for place, said in enumerate(chosen)}


def _own_captions(corpus: Corpus, held_out: list[int], texts: Mapping[str, tuple[int, str]]) -> list[Direction]:
    pictures = _places(corpus.said, {corpus.said[row] for row in held_out})
    none: list[list[int]] = [[] for _ in held_out]
    captions, ids = [corpus.captions[row] for row in held_out], [corpus.ids[row] for row in held_out]
    right = [[texts[corpus.said[row]][0]] for row in held_out]
    gallery = [text for _, text in texts.values()]
    return [
        Direction(TASKS["text_to_image"], [], captions, [pictures[corpus.said[row]] for row in held_out], none),
        Direction(TASKS["image_to_text"], ids, [], right, none, gallery_texts=gallery),
    ]


def _alike_pictures(corpus: Corpus, held_out: list[int]) -> Direction:
    shows = corpus.shows
    same = _places(shows, {shows[row] for row in held_out})
    rows = [row for row in held_out if len(same[shows[row]]) > 1]
    right = [[other for other in same[shows[row]] if other != row] for row in rows]
    return Direction(TASKS["image_to_image"], [corpus.ids[row] for row in rows], [], right, [[row] for row in rows])


def _said_alike(corpus: Corpus, held_out: list[int]) -> dict[int, set[str]]:
    """What captions of the same scene say in other words, by held-out picture; pictures without such are left out."""
    same = _places(corpus.scenes, {scene for row in held_out if (scene := corpus.scenes[row])})
    saying = {row: {corpus.said[other] for other in same.get(corpus.scenes[row] or "", ())} for row in held_out}
    return {row: others for row, said in saying.items() if (others := said - {corpus.said[row], ""})}


def _alike_texts(corpus: Corpus, alike: Mapping[int, set[str]], texts: Mapping[str, tuple[int, str]]) -> Direction:
    return Direction(
        TASKS["text_to_text"],
        [],
        [corpus.captions[row] for row in alike],
        [sorted(texts[said][0] for said in others) for others in alike.values()],
        [[texts[corpus.said[row]][0]] for row in alike],
        gallery_texts=[text for _, text in texts.values()],
    )


def _captioned(corpus: Corpus, triplets: Sequence[Query], settings: EvaluateSettings) -> Direction:
    row_of = {image_id: row for row, (image_id, said) in enumerate(zip(corpus.ids, corpus.said, strict=True)) if said}
    asked = triplets[: max(1, settings.captioned_pictures // 3)]
    needed = {row_of[i] for q in asked for i in (q.reference, *q.targets) if i in row_of}
    rest = sorted(set(row_of.values()) - needed, key=lambda row: uniform("evaluate both", corpus.ids[row]))
    gallery = sorted(needed | set(rest[: max(0, settings.captioned_pictures - len(needed))]))
    place = {row: at for at, row in enumerate(gallery)}
    return Direction(
        TASKS["image_text_to_image_text"],
        [q.reference for q in asked],
        [q.text for q in asked],
        [sorted(place[row_of[i]] for i in q.targets) for q in asked],
        [[place[row_of[q.reference]]] if q.reference in row_of else [] for q in asked],
        [corpus.ids[row] for row in gallery],
        [corpus.captions[row] for row in gallery],
    )


Load = Callable[[Sequence[str]], Mapping[str, bytes]]
"""Function from ids to the files of pictures, by id."""


def candidates(direction: Direction, retriever: Encoder, load_images: Load) -> np.ndarray:
    """(n, d) unit vectors of the direction's gallery, where that is not all pictures of the corpus."""
    return _encode(retriever, direction.gallery_images, direction.gallery_texts, load_images, {})


def evaluate_direction(
    direction: Direction,
    retriever: Encoder,
    pictures: Mapping[str, np.ndarray],
    gallery: np.ndarray,
    load_images: Load,
    query: Mapping[str, str],
    ks: Sequence[int] = (1, 5, 10, 50),
) -> dict[str, float]:
    """``R@k`` in percent over the direction's ``gallery`` (n, d), and its size under that name.

    ``pictures``: unit vectors (d,) of the corpus's pictures as candidates, by id. ``query``: keywords of ``encode`` that make a
    query of the direction's task; without any a picture that asks alone has the vector that it has as a candidate.
    """
    if direction.images and not direction.texts and not query:
        asked = np.stack([pictures[image_id] for image_id in direction.images])
    else:
        asked = _encode(retriever, direction.images, direction.texts, load_images, query)
    return recall_at(target_ranks(asked, gallery, direction.right, direction.excluded), ks) | {"gallery": len(gallery)}


def _encode(
    retriever: Encoder,
    images: Sequence[str],
    texts: Sequence[str],
    load_images: Load,
    query: Mapping[str, str],
) -> np.ndarray:
    """(n, d) unit vectors of pictures, of texts, or of as many of one as of the other."""
    if not images:
        return retriever.encode(texts=list(texts), batch_size=_BLOCK, **query)
    parts = [np.empty((0, retriever.dim), np.float32)]
    for start in range(0, len(images), _BLOCK):
        ids = images[start : start + _BLOCK]
        files = load_images(ids)
        said = list(texts[start : start + _BLOCK]) or None
        parts.append(retriever.encode([files[image_id] for image_id in ids], said, batch_size=_BLOCK, **query))
    return np.concatenate(parts)
