"""Imports released MegaPairs annotations and their pictures, so that people can train on the published triplets and their own.

An annotation file becomes partitions ``import-<hash>-00000``, ... of ``Release.lines`` lines each, with pictures, pairs,
instructions and triplets. They are imported, not computed, so no stage computes them again; training reads them with all others.
The lineage says where they come from. What the release does not have (captions, descriptions, scores) is null; as signals that
found the pair all are named, so that every recipe uses it. A line that cannot be used is among the rejects with its reason.
Memory is one partition and 64 MiB of look-ups; time is reading each picture twice and decoding it once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmret.curation.licences import SEPARATOR
from mmret.curation.opted_out import OPTED_OUT
from mmret.curation.split import split_of
from mmret.errors import UserError
from mmret.hashing import fingerprint, pair_id
from mmret.ingest.object_store.lost import ending_when_lost
from mmret.ingest.object_store.read_ahead import reads_at_once
from mmret.ingest.opt_out.entries import OptOuts
from mmret.ingest.opt_out.lists import read_opt_outs
from mmret.ingest.opt_out.pictures import OptedOut
from mmret.ingest.released.annotations import Annotation, Refusal, read_annotations
from mmret.ingest.released.lake_contents import LakeContents
from mmret.ingest.rows import Row
from mmret.ingest.seal import hash_file
from mmret.ingest.sources import open_reader
from mmret.ingest.stage import ingest_shard
from mmret.lake import IMPORT_PREFIX, Lake
from mmret.progress import advance
from mmret.schemas import CORPUS_MANIFEST, DESCRIPTIONS, INSTRUCTIONS, PAIRS, SIGNALS, TRIPLETS
from mmret.settings import Profile
from mmret.threads import in_order

VERSION = "1"
_SAMPLE_ROWS = 1000


@dataclass(frozen=True)
class Release:
    """One annotation file with the folder its paths are relative to, which may be an address of an object store."""

    annotations: Path
    images: Path | str
    name: str = "MegaPairs release"
    licence: str | None = None
    lines: int = 50_000

    @property
    def prefix(self) -> str:
        """What the names of its partitions begin with. It is the same for the same file and folder, so an import can continue."""
        return f"{IMPORT_PREFIX}{fingerprint(str(self.annotations), str(self.images), self.lines)[:8]}-"


def import_release(lake: Lake, releases: Sequence[Release], profile: Profile) -> dict[str, int]:
    """Import every release; returns counts of lines, triplets, pictures taken, and what was refused by reason.

    An import that was interrupted continues; one that is complete does nothing. Raises UserError where a file cannot be read, or
    where none of the first pictures exists, since the folder is then likely to be wrong.

    >>> import_release(lake, [Release(Path("megapairs.jsonl"), Path("pictures"))], profile)["triplets"]
    """
    totals: Counter[str] = Counter()
    opted_out = OptedOut(lake, read_opt_outs(profile.corpus.opt_out))
    with ending_when_lost():
        for release in releases:
            _look(release)
            with LakeContents() as known:
                own = [p for p in lake.partitions("corpus_manifest") if not p.startswith(release.prefix)]
                for partition in own:
                    known.add_partition(lake, partition, str(release.images))
                totals.update(_Import(lake, release, profile, known, opted_out).run())
    return dict(totals)


def _look(release: Release) -> None:
    reader, missing = open_reader(str(release.images)), []
    for row in islice(read_annotations(release.annotations), _SAMPLE_ROWS):
        if isinstance(row, Annotation):
            _, _, failure = hash_file(reader, Row(row.query))
            if failure is None:
                return
            missing.append(row.query)
    if missing:
        raise UserError(
            f"{release.images}: none of the first {len(missing)} pictures that {release.annotations.name} names can be "
            f"read, beginning with {missing[0]}; give the folder that these paths start from"
        )


class _Import:
    """The import of one release into a lake."""

    def __init__(self, lake: Lake, release: Release, profile: Profile, known: LakeContents, opted_out: OptedOut | None = None):
        self.lake, self.release, self.profile, self.contents = lake, release, profile, known
        self.opted_out = opted_out or OptedOut(lake, OptOuts())
        self.root = str(release.images)
        self.reader = open_reader(self.root)

    def run(self) -> Counter[str]:
        stat = self.release.annotations.stat()
        about = fingerprint(
            "megapairs",
            VERSION,
            stat.st_size,
            stat.st_mtime_ns,
            self.release.name,
            self.release.licence,
            self.profile.ingest.model_dump(),
            self.profile.evaluate.held_out,
        )
        for partition in self.lake.partitions("triplets"):
            if self._complete(partition, about):
                self.contents.add_partition(self.lake, partition, self.root)
        totals: Counter[str] = Counter()
        rows = read_annotations(self.release.annotations)
        for number, chunk in enumerate(iter(lambda: list(islice(rows, self.release.lines)), [])):
            partition = f"{self.release.prefix}{number:05d}"
            if not self._complete(partition, about):
                self._write(partition, chunk, about)
            totals.update(self.lake.facts("triplets", partition).notes["counts"])
            advance("import", totals["lines"], None, self.release.annotations.name)
        return totals

    def _complete(self, partition: str, about: str) -> bool:
        facts = self.lake.facts("triplets", partition) if partition.startswith(self.release.prefix) else None
        return facts is not None and facts.inputs == about

    def _write(self, partition: str, chunk: list[Annotation | Refusal], about: str) -> None:
        """Write one partition. Its triplets are written last: where they exist the partition is complete."""
        pictures = self._pictures(partition, chunk)
        self.lake.write("corpus_manifest", partition, _table(pictures, CORPUS_MANIFEST), about)
        ingest_shard(self.lake, partition, self.profile.ingest, about)
        taken = self.lake.read("images", partition, ["image_id", "licence"])
        self.contents.add_pictures((r["image_id"], r["licence"]) for r in taken.to_pylist())
        self.contents.add_paths(self.root, ((r["path"], r["image_id"]) for r in pictures))
        accepted, refused, dropped = self._resolve(chunk)
        if refused:
            lines = [
                self._manifest_row(
                    partition, len(pictures) + at, f"{self.release.annotations.name}:{r.line}", reason=r.reason, detail=r.detail
                )
                for at, r in enumerate(refused)
            ]
            self.lake.write("corpus_manifest", partition, _table([*pictures, *lines], CORPUS_MANIFEST), about)
            ingest_shard(self.lake, partition, self.profile.ingest, about)  # decodes nothing again: the pictures are stored
        self.lake.write("pairs", partition, _table(accepted, PAIRS), about)
        said = {"model": self.release.name, "prompt_version": "released", "parser_version": VERSION, "status": "ok"}
        described = [{"pair_id": r["pair_id"], "reason": "not released", **said} for r in accepted]
        self.lake.write("descriptions", partition, _table(described, DESCRIPTIONS), about)
        instructed = [{"pair_id": r["pair_id"], "texts": r["texts"], **said} for r in accepted]
        self.lake.write("instructions", partition, _table(instructed, INSTRUCTIONS), about)
        triplets = [
            {
                **r,
                "hard_negatives": [r["query_id"], *r["hard_negatives"]],
                "description_model": self.release.name,
                "instruction_model": self.release.name,
                "split": split_of(r["query_id"], self.profile.evaluate),
            }
            for r in accepted
        ]
        triplets.sort(key=lambda r: (r["query_id"], r["pair_id"]))
        train = sum(r["split"] == "train" for r in triplets)
        counts = {
            "lines": len(chunk),
            "triplets": len(triplets),
            "pictures": taken.num_rows,
            "negatives_missing": dropped,
            **Counter(f"refused: {r.reason}" for r in refused),
        }
        self.lake.write(
            "triplets",
            partition,
            _table(triplets, TRIPLETS),
            about,
            train=train,
            test=len(triplets) - train,
            left_out={},
            counts=counts,
        )

    def _pictures(self, partition: str, chunk: list[Annotation | Refusal]) -> list[dict[str, Any]]:
        """Rows of CORPUS_MANIFEST for the files that this partition is the first to name."""
        named = dict.fromkeys(path for row in chunk if isinstance(row, Annotation) for path in row.pictures())
        fresh = (Row(path) for path in named if not self.contents.has_path(self.root, path))
        rows: list[dict[str, Any]] = []
        first: dict[str, str] = {}
        for row, (image_id, size, failure) in in_order(partial(hash_file, self.reader), fresh, reads_at_once(self.root)):
            reason, detail = (failure.reason, failure.detail) if failure else (None, None)
            if image_id is not None and (entry := self.opted_out.entry_of(self.root, row, image_id, self.reader)):
                reason, detail = OPTED_OUT, entry
            elif image_id is not None and self.contents.has_picture(image_id):
                reason, detail = "duplicate", "the lake holds this picture already"
            elif image_id is not None and image_id in first:
                reason, detail = "duplicate", f"same content as {first[image_id]}"
            elif image_id is not None:
                first[image_id] = row.path
            rows.append(
                self._manifest_row(
                    partition,
                    len(rows),
                    row.path,
                    image_id=image_id,
                    size=size,
                    reason=reason,
                    detail=detail,
                    licence=self.release.licence,
                )
            )
        return rows

    def _manifest_row(self, partition: str, position: int, path: str, **more: Any) -> dict[str, Any]:
        return {
            "shard": partition,
            "position": position,
            "root": self.root,
            "path": path,
            "caption": "",
            "source": self.release.name,
            **more,
        }

    def _resolve(self, chunk: list[Annotation | Refusal]) -> tuple[list[dict[str, Any]], list[Refusal], int]:
        """Rows with image ids instead of paths, the lines that cannot be used, and how many negatives have no picture."""
        accepted: list[dict[str, Any]] = []
        refused: list[Refusal] = []
        dropped = 0
        for row in chunk:
            made = row if isinstance(row, Refusal) else self._pair(row)
            if isinstance(made, Refusal):
                refused.append(made)
                continue
            negatives = [found[0] if (found := self.contents.picture(self.root, path)) else None for path in row.negatives]
            dropped += negatives.count(None)
            made["hard_negatives"] = [i for i in dict.fromkeys(negatives) if i not in (None, made["query_id"], made["target_id"])]
            accepted.append(made)
        accepted.sort(key=lambda r: (r["query_id"], r["target_id"]))
        return accepted, refused, dropped

    def _pair(self, row: Annotation) -> dict[str, Any] | Refusal:
        query, target = (self.contents.picture(self.root, path) for path in (row.query, row.target))
        if query is None or target is None:
            missing = row.query if query is None else row.target
            return Refusal(row.line, "picture_missing", f"{missing} is missing, cannot be read or has opted out")
        if query[0] == target[0]:
            return Refusal(row.line, "target_is_the_query", f"{row.target} is the same picture as {row.query}")
        key = pair_id(query[0], target[0])
        if not self.contents.add_pair(key):
            return Refusal(row.line, "duplicate_pair", "the lake has a triplet of these two pictures already")
        licences = list(dict.fromkeys((query[1], target[1])))
        licence = licences[0] if len(licences) == 1 else SEPARATOR.join(text or "unknown" for text in licences)
        return {
            "pair_id": key,
            "query_id": query[0],
            "target_id": target[0],
            "texts": list(row.texts),
            "signals": list(SIGNALS),
            "query_path": row.query,
            "target_path": row.target,
            "licence": licence,
        }


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema)
