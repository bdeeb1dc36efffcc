"""Has filters look at the training triplets of a lake, once: table ``verdicts``, which recipes with ``filters`` heed.

A filter learns from all triplets of split ``train``, so its verdicts are of one version for all recipes, and of another one when
triplets, captions or vectors change. What is there in today's version is not computed again; of a run that was stopped the
partitions that are missing are. Cost: see :mod:`.consistency`, :mod:`.false_negatives` and :mod:`.judge`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.errors import UserError
from mmret.filters import consistency, false_negatives, judge, verdicts
from mmret.filters.corpus import Corpus, Triplets, pictures_of, read_corpus
from mmret.filters.verdicts import Dropped, Verdicts
from mmret.filters.versions import VERSIONS
from mmret.hashing import digest_table, fingerprint
from mmret.lake import Lake
from mmret.schemas import SIGNALS
from mmret.settings import AnnotateSettings, Recipe

COLUMNS = ["pair_id", "query_id", "target_id", "texts", "hard_negatives"]
Judging = Callable[[Corpus, pa.Table, str], Verdicts]
"""Pictures, triplets and a version in; what a filter says of each text or negative out."""


def check(
    lake: Lake, filters: Sequence[str], then: Lake | None = None, annotate: AnnotateSettings | None = None
) -> tuple[list[Verdicts], int]:
    """What ``filters`` say of the training triplets of ``then`` (``lake`` as it was; None: as it is), computing what is missing;
    and how many rows are new.

    ``annotate``: names the model that filter ``judge`` asks. Raises UserError where it names none.

    >>> check(Lake("lakes/demo"), ["consistency"])[0][0].dropped
    """
    then = then or lake
    rows = then.read("triplets", columns=[*COLUMNS, "split"])
    rows = rows.filter(pc.equal(rows["split"], "train")).select(COLUMNS).sort_by("pair_id").combine_chunks()
    found, made, corpus = [], 0, None
    for name in filters:
        model = _version(lake, then, name, rows, annotate)
        if todo := verdicts.missing(lake, name, model):
            if name == "judge":
                said = judge.judged(lake, rows, model, annotate or AnnotateSettings())
            else:
                corpus = corpus or read_corpus(lake, then, pictures_of(rows))
                said = JUDGES[name](corpus, rows, model)
            made += verdicts.write(lake, said, todo)
        found.append(verdicts.read(lake, name, model))
    return found, made


def filtered(
    lake: Lake, recipe: Recipe, rows: pa.Table, then: Lake | None = None, annotate: AnnotateSettings | None = None
) -> tuple[pa.Table, list[str]]:
    """``rows`` of ``recipe`` without what its filters drop, and what a reader of the run should know. Writes verdicts that are
    missing. Raises UserError where no training row is left of some."""
    said, _ = check(lake, recipe.filters, then, annotate)
    left, dropped = verdicts.without(rows, {v.filter: v.dropped for v in said})
    notes = notes_of(said, dropped)
    if _trained_on(rows) and not _trained_on(left):
        names = " ".join(f"--filter {name}" for name in recipe.filters)
        raise UserError(f"{notes[0]}: nothing is left to train on. `mmret check --lake {lake.address} {names}` shows why")
    return left, notes


def _trained_on(rows: pa.Table) -> int:
    return pc.sum(pc.equal(rows["split"], "train")).as_py() or 0


def notes_of(said: Sequence[Verdicts], dropped: Dropped) -> list[str]:
    """What was left out, and what could not be judged, in sentences."""
    names = " and ".join(v.filter for v in said)
    left_out = (
        f"filters {names}: {dropped.texts:,} texts and {dropped.negatives:,} hard negatives left out, and {dropped.rows:,} "
        "triplets that no text was left of"
    )
    return [left_out, *(f"filter {v.filter}: {v.note}" for v in said if v.note)]


def _version(lake: Lake, then: Lake, name: str, rows: pa.Table, annotate: AnnotateSettings | None) -> str:
    known_as = f"{name}@{VERSIONS[name]}"
    if name == "judge":
        return f"{known_as}:{fingerprint(digest_table(rows), judge.version(annotate or AnnotateSettings()))}"
    images = then.read("images", columns=["image_id", "caption"]).sort_by("image_id")
    vectors = {s: {p: f.digest for p in lake.partitions(s) if (f := lake.facts(s, p))} for s in SIGNALS}
    return f"{known_as}:{fingerprint(digest_table(rows), digest_table(images), vectors)}"


def consistency_verdicts(corpus: Corpus, rows: pa.Table, model: str) -> Verdicts:
    """What filter ``consistency`` says of every text of ``rows``."""
    triplets = Triplets.of(rows, corpus.ids)
    said = consistency.consistency(corpus, triplets)
    sure = "fits its pair no better than the text of another pair"
    columns = {
        **_named(rows, triplets.row),
        "text": pa.array(triplets.texts, pa.string()),
        **_decided(said.dropped, said.scores, said.threshold, said.signals, said.against, lambda _: sure),
    }
    return Verdicts("consistency", model, verdicts.table("consistency", model, columns, len(triplets.row)), said.why_not)


def false_negative_verdicts(corpus: Corpus, rows: pa.Table, model: str) -> Verdicts:
    """What filter ``false_negatives`` says of every hard negative of ``rows`` but the query pictures."""
    triplets = Triplets.of(rows, corpus.ids)
    said = false_negatives.false_negatives(corpus, triplets)
    agree = np.concatenate([(said.scores >= said.threshold)[:, None], ~said.against], axis=1)
    reasons = ("its caption means what the target's does", "its caption is the target's, word for word")
    columns = {
        **_named(rows, triplets.negative_row),
        "candidate_id": corpus.ids.take(pa.array(triplets.negatives)),
        **_decided(
            said.dropped, said.scores, said.threshold, ("words", *said.signals), agree, lambda n: reasons[int(said.same_words[n])]
        ),
    }
    table = verdicts.table("false_negatives", model, columns, len(triplets.negatives))
    return Verdicts("false_negatives", model, table, said.note)


JUDGES: dict[str, Judging] = {"consistency": consistency_verdicts, "false_negatives": false_negative_verdicts}
"""The filters that learn from the lake itself."""


def _named(rows: pa.Table, row: np.ndarray) -> dict[str, pa.Array]:
    return {name: rows[name].take(pa.array(row)) for name in ("pair_id", "query_id", "target_id")}


def _decided(
    dropped: np.ndarray,
    scores: np.ndarray,
    threshold: float,
    signals: Sequence[str],
    against: np.ndarray,
    reason: Callable[[int], str],
) -> dict[str, pa.Array]:
    names = [[signal for signal, says in zip(signals, own, strict=True) if says] for own in against.tolist()]
    drop = dropped.tolist()
    limit = float(threshold) if np.isfinite(threshold) else None
    return {
        "verdict": pa.array(["drop" if d else "keep" for d in drop], pa.string()),
        "reason": pa.array([reason(n) if d else None for n, d in enumerate(drop)], pa.string()),
        "score": pa.array(scores.astype(np.float32)),
        "threshold": pa.array([limit] * len(drop), pa.float32()),
        "signals": pa.array([own if d else [] for own, d in zip(names, drop, strict=True)], pa.list_(pa.string())),
    }
