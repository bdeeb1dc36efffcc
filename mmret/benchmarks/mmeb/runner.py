"""Runs a model on MMEB v1 in its published parquet layout, with the instructions that its rows have.

Each distinct picture, text or pair is embedded once per data set. A set of 1,000 queries with 1,000 candidates each is
1,000,000 candidates of which at most a few thousand are distinct.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmret.benchmarks.common.candidates import duplicates_of_first, order, similarities
from mmret.benchmarks.common.image_folder import ImageFolder
from mmret.benchmarks.common.pictures import Embedder, Shot
from mmret.benchmarks.common.runs import COMPOSED, IMAGE_ONLY, TEXT_ONLY, BenchmarkRun, MissingPictures, RunOptions, Variant
from mmret.benchmarks.mmeb import scorer as mmeb
from mmret.errors import UserError

PLACEHOLDER = "<|image_1|>"
DEPTH = 10
"""Positions written per query; hit@1 needs the first."""


@dataclass(frozen=True)
class Side:
    """A query or a candidate: text without the image placeholder, path of its picture ("": none), and its instruction."""

    text: str
    path: str
    instruction: str = ""


@dataclass(frozen=True)
class Instructions:
    """The two instructions of a set, and whether they are part of the text a model sees.

    ``content``: for sum-fused encoders, both are cut off. ``instructed``: for models that take an instruction, the
    query's is passed as that and the target's stays in its text. ``full``: the published text as it is.
    """

    query: str
    target: str
    mode: str

    def query_side(self, text: str, path: str, row_instruction: str = "") -> Side:
        text = clean(text)
        instruction, content = (row_instruction, text) if row_instruction else _split(text, self.query)
        if self.mode == "full":
            return Side(f"{instruction}{content}" if row_instruction else text, path)
        return Side(content, path, instruction if self.mode == "instructed" else "")

    def target_side(self, text: str, path: str, row_instruction: str = "") -> Side:
        text = clean(text)
        if self.mode == "content":
            return Side(text if row_instruction else _split(text, self.target)[1], path)
        return Side(f"{row_instruction}{text}", path)


MODES = ("content", "instructed", "full")


def clean(text: str) -> str:
    """The published text without its image placeholder and the white space around it.

    Some sets carry a placeholder without a picture (WebQA, EDIS); a model that counts image tokens must not see it.
    """
    return text.replace(PLACEHOLDER, "").strip()


def _split(text: str, instruction: str) -> tuple[str, str]:
    known = instruction.strip()
    if known and text.startswith(known):
        return known, text[len(known) :].strip()
    return "", text


def run(embedder: Embedder, options: RunOptions) -> BenchmarkRun:
    """MMEB v1 from its parquet files (``options.annotations``: one folder a set), pictures under ``options.images``.

    ``options.template`` is one of :data:`MODES`; None takes ``instructed`` for a model that takes instructions, else
    ``content``.
    """
    data = yaml.safe_load(mmeb.PROTOCOL.read_text(encoding="utf-8"))
    mode = options.template or ("instructed" if embedder.takes_instruction else "content")
    if mode not in MODES:
        raise UserError(f"no template '{mode}' for mmeb: there are {', '.join(MODES)}")
    folder = ImageFolder(options.images, ("images", "image-tasks", "image-tasks/mmeb_v1", "eval_images"))
    present = [name for name in mmeb.published_sets() if any((options.annotations / name).glob("*.parquet"))]
    if not present:
        raise UserError(f"{options.annotations} holds no folder with parquet files called like one of MMEB's 36 sets")
    scores: dict[str, dict[str, float]] = {}
    lists: dict[str, dict[str, list[list[int]]]] = {}
    partials, queries, candidates = [], 0, 0
    for name in present:
        entry = data["sets"][name]
        made = _MmebSet(
            embedder, options, folder, name, Instructions(entry["query_instruction"], entry["target_instruction"], mode)
        )
        queries, candidates = queries + len(made.queries), candidates + len(made.distinct)
        partials += [made.partial] if made.partial else []
        for way in (COMPOSED, IMAGE_ONLY, TEXT_ONLY):
            rankings = made.rankings(way)
            scores.setdefault(way, {})[name] = mmeb.hit_at_1(rankings)
            lists.setdefault(way, {})[name] = [r[:DEPTH] for r in rankings]
    if absent := [n for n in mmeb.published_sets() if n not in present]:
        partials.append(
            f"PARTIAL: {len(present)} of 36 sets (not {', '.join(absent[:4])}{' ...' if len(absent) > 4 else ''}); "
            "means are over these only"
        )
    variants = tuple(
        Variant(way, {"sets": sets, **mmeb.aggregate(sets)}, {"predictions.json": lists[way]}) for way, sets in scores.items()
    )
    return BenchmarkRun(
        "mmeb",
        "v1",
        f"{data['version']}/{mode}",
        embedder.model,
        queries,
        candidates,
        variants,
        partial="; ".join(partials) or None,
    )


class _MmebSet:
    """One data set: its queries, and its distinct candidates embedded."""

    def __init__(self, embedder: Embedder, options: RunOptions, folder: ImageFolder, name: str, instructions: Instructions):
        self.embedder = embedder
        rows = list(_rows(options.annotations / name))
        self.queries = [
            instructions.query_side(r["qry_text"] or "", r["qry_img_path"] or "", r.get("qry_inst") or "") for r in rows
        ]
        self.candidates = [
            [
                instructions.target_side(t or "", p or "", r.get("tgt_inst") or "")
                for t, p in zip(r["tgt_text"], r["tgt_img_path"], strict=True)
            ]
            for r in rows
        ]
        paths = dict.fromkeys(s.path for s in (*self.queries, *(c for row in self.candidates for c in row)) if s.path)
        self.paths = {path: folder.find(path) for path in paths}
        missing = MissingPictures({path: "not found" for path, file in self.paths.items() if file is None})
        missing.check(len(self.paths), options.allow_missing, options.images)
        self.pictures = self._embed_pictures(missing)
        missing.check(len(self.paths), options.allow_missing, options.images)
        self.partial = None
        if missing.reasons:
            keep = [
                i for i, row in enumerate(self.candidates) if all(s.path not in missing.reasons for s in (self.queries[i], *row))
            ]
            self.partial = (
                f"PARTIAL: {name}: {len(missing.reasons)} pictures are missing, {len(rows) - len(keep)} of {len(rows)} "
                "queries were left out"
            )
            if not keep:
                raise UserError(f"{name}: no query has all its pictures under {options.images}")
            self.queries = [self.queries[i] for i in keep]
            self.candidates = [self.candidates[i] for i in keep]
        self.distinct = list(dict.fromkeys(c for row in self.candidates for c in row))
        self.place = {side: i for i, side in enumerate(self.distinct)}
        self.rows = self._embed(self.distinct)

    def _embed_pictures(self, missing: MissingPictures) -> dict[str, np.ndarray]:
        here = [path for path, file in self.paths.items() if file]
        vectors = self.embedder.picture_vectors([Shot(self.paths[path]) for path in here], "pictures")  # type: ignore[arg-type]
        missing.reasons.update({here[i]: reason for i, reason in vectors.unreadable.items()})
        return {path: vectors.rows[i] for i, path in enumerate(here) if i not in vectors.unreadable}

    def rankings(self, variant: str) -> list[list[int]]:
        """Candidate positions best first, one list a query. ``variant``: composed, image only, text only; a query that has no such
        part is asked by the part it has."""
        sides = {
            COMPOSED: self.queries,
            IMAGE_ONLY: [Side("", q.path) if q.path else q for q in self.queries],
            TEXT_ONLY: [Side(q.text, "", q.instruction) if q.text else q for q in self.queries],
        }[variant]
        vectors = self._embed(sides)
        found = []
        for vector, row in zip(vectors, self.candidates, strict=True):
            scores = similarities(self.rows[[self.place[c] for c in row]], vector)
            found.append(order(scores, duplicates_of_first(row)))
        return found

    def _embed(self, sides: Sequence[Side]) -> np.ndarray:
        """(n, d) float32: each side embedded by its picture, its text, or both; equal sides once."""
        distinct = list(dict.fromkeys(sides))
        kinds: dict[tuple[bool, bool, str], list[Side]] = {}
        for side in distinct:
            if not side.text and not side.path:
                raise UserError("an MMEB row has a query or candidate with neither text nor picture")
            kinds.setdefault((bool(side.path), bool(side.text), side.instruction), []).append(side)
        made: dict[Side, np.ndarray] = {}
        for (has_path, has_text, instruction), group in kinds.items():
            if has_path and has_text:
                shots = [Shot(self.paths[s.path]) for s in group]  # type: ignore[arg-type]
                rows = self.embedder.composed_vectors(shots, [s.text for s in group], instruction or None)
            elif has_path and not (instruction and self.embedder.takes_instruction):
                rows = np.stack([self.pictures[s.path] for s in group])
            elif has_path:
                rows = self.embedder.composed_vectors(
                    [Shot(self.paths[s.path]) for s in group],  # type: ignore[arg-type]
                    [""] * len(group),
                    instruction,
                )
            else:
                rows = self.embedder.text_vectors([s.text for s in group], instruction or None)
            made.update(zip(group, rows, strict=True))
        return np.stack([made[side] for side in sides])


def _rows(folder: Path) -> Iterable[Mapping[str, Any]]:
    import pyarrow.parquet as pq

    for file in sorted(folder.glob("*.parquet")):
        table = pq.read_table(file, partitioning=None)
        if missing := {"qry_text", "qry_img_path", "tgt_text", "tgt_img_path"} - set(table.column_names):
            raise UserError(f"{file} has no column {', '.join(sorted(missing))}; MMEB-eval's v1 parquet layout is expected")
        for row in table.to_pylist():
            if len(row["tgt_text"]) != len(row["tgt_img_path"]) or not row["tgt_text"]:
                raise UserError(f"{file}: a row has {len(row['tgt_text'])} candidate texts and {len(row['tgt_img_path'])} paths")
            yield row
