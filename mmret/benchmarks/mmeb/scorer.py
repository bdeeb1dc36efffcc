"""MMEB v1 (Jiang et al., ICLR 2025): hit@1 on 36 data sets, and the unweighted means over sets that papers print.

Every query ranks its own candidate list, whose position 0 is the ground truth, so a constant or NaN embedding scores
100 % under ``argmax`` (VLM2Vec v1) and anything at all under an unstable sort (v2); here predictions are explicit
rankings. Meta-task scores, IND, OOD and overall are means over data sets, never over meta tasks. Candidate counts
differ from the paper's table (113 for ObjectNet, 894 for A-OKVQA, ...), so they are read from the data where the data
is given, and never assumed.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from mmret.benchmarks.common.reading import Entry, Findings, ListRule, predictions_object, read_as, read_json, recognise
from mmret.benchmarks.common.scores import ScoreOptions, Scores, mean
from mmret.errors import UserError

PROTOCOL = Path(__file__).with_name("protocol.yaml")
MAX_CANDIDATES = 1_000_000
"""Bound on a position where the annotations do not say how many candidates a query has."""


@dataclass(frozen=True)
class DataSet:
    """One of the 36 data sets. ``candidates``: their number for each query, from the data; None: unknown. ``listed_queries``: the
    number of queries by the task list, if that is all there is.
    """

    name: str
    meta: str
    split: str
    candidates: tuple[int, ...] | None = None
    listed_queries: int | None = None


@cache
def published_sets() -> dict[str, DataSet]:
    """The 36 sets by name in the paper's order."""
    table = yaml.safe_load(PROTOCOL.read_text(encoding="utf-8"))["sets"]
    return {name: DataSet(name, entry["meta"], entry["split"]) for name, entry in table.items()}


class _Entry(Entry):
    dataset: str
    meta_task: str
    split: Literal["IND", "OOD"]
    queries: int | None = None


def load(path: Path) -> dict[str, DataSet]:
    """The sets described at ``path``: a task list (``tasks.json``), or MMEB-eval parquet files, one folder a set."""
    if not path.exists():
        raise UserError(f"no annotations at {path}: give MMEB's tasks.json, or the folder of its parquet files")
    if path.is_file():
        return _task_list(path)
    tasks = sorted([*path.glob("tasks.json"), *path.glob("tasks.json.gz")])
    if tasks:
        return _task_list(tasks[0])
    found = {name: data for name, data in published_sets().items() if any((path / name).glob("*.parquet"))}
    if not found:
        raise UserError(f"{path} holds neither tasks.json nor a folder of parquet files called like one of MMEB's sets")
    return {name: _counted(data, path / name) for name, data in found.items()}


def _task_list(path: Path) -> dict[str, DataSet]:
    found = {}
    for entry in read_as(path, list[_Entry], "MMEB's task list"):
        if entry.dataset in found:
            raise UserError(f"{path}: {entry.dataset} is listed twice")
        found[entry.dataset] = DataSet(entry.dataset, entry.meta_task, entry.split, listed_queries=entry.queries)
    return found


def _counted(data: DataSet, folder: Path) -> DataSet:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    counts: list[int] = []
    for file in sorted(folder.glob("*.parquet")):
        counts += pc.list_value_length(pq.read_table(file, columns=["tgt_text"], partitioning=None)["tgt_text"]).to_pylist()
    return DataSet(data.name, data.meta, data.split, tuple(counts))


def score(annotations: Path, predictions: Path, options: ScoreOptions) -> Scores:
    """Score ``{"set name": [[candidate positions best first], one list a query], ...}``; any of the 36 sets.

    A list may stop after its first position, all that hit@1 needs. Raises UserError for malformed files; a file with
    fewer sets is scored over those it has, and the notes say so.
    """
    truth = load(annotations)
    data = predictions_object(
        predictions, read_json(predictions), 'MMEB predictions {"set name": [[candidate positions], ...], ...}'
    )
    for name in data:
        if name not in truth:
            near = difflib.get_close_matches(name, truth, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; the file looks like {recognise(data)}"
            if name == "CIFAR-100":
                hint = "; it is published with them but is not one of the 36"
            raise UserError(f"{predictions}: {name!r} is none of the {len(truth)} data sets of {annotations}{hint}")
    sets: dict[str, float] = {}
    notes: list[str] = []
    for name in [n for n in truth if n in data]:
        rankings, more = read_predictions(truth[name], data[name], predictions, options.partial)
        notes += more
        sets[name] = hit_at_1(rankings)
    if missing := [name for name in truth if name not in sets]:
        notes.append(
            f"partial: {len(sets)} of {len(truth)} sets; the means are over these only and are no MMEB scores "
            f"(no predictions for {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''})"
        )
    return Scores("mmeb", {"sets": sets, **aggregate(sets, truth)}, sum(len(data[n]) for n in sets), tuple(notes))


def read_predictions(data: DataSet, lists: Any, path: Path, partial: bool = False) -> tuple[list[list[int]], list[str]]:
    """Checked rankings of one set, and notes."""
    findings = Findings(path, partial)
    if not isinstance(lists, list) or not lists:
        raise UserError(
            f"{path}: {data.name} must be a non-empty list with one ranking a query"
            + ("; scores are not predictions" if isinstance(lists, float | int) else "")
        )
    if data.candidates is not None:
        findings.check_count(lists, len(data.candidates), data.name, "the parquet files")
    elif data.listed_queries is not None and len(lists) != data.listed_queries:
        findings.note(f"{data.name} has {len(lists)} rankings where the task list speaks of {data.listed_queries} queries")
    for index, ranking in enumerate(lists):
        size = data.candidates[index] if data.candidates and index < len(data.candidates) else MAX_CANDIDATES
        findings.check_list(f"{data.name} query {index}", ranking, ListRule(int, "candidate position", 1, range(size)))
    return lists, list(findings.finish())


def hit_at_1(rankings: Sequence[Sequence[int]]) -> float:
    """Share of the rankings, in percent, that begin with position 0 (the ground truth)."""
    return 100.0 * sum(ranking[0] == 0 for ranking in rankings) / len(rankings)


def aggregate(sets: Mapping[str, float], table: Mapping[str, DataSet] | None = None) -> dict[str, Any]:
    """Meta-task scores, IND, OOD and overall: unweighted means over the data sets in ``sets`` (name -> percent).

    ``table``: what meta task and split a set belongs to; None: the published 36. Meta tasks without a set are left out;
    IND, OOD and overall of nothing are None.
    """
    table = published_sets() if table is None else table
    given = [table[name] for name in sets]
    metas = list(dict.fromkeys(data.meta for data in table.values()))
    by_meta = {meta: mean([sets[d.name] for d in given if d.meta == meta]) for meta in metas}
    return {
        "meta": {meta: value for meta, value in by_meta.items() if value is not None},
        "IND": mean([sets[d.name] for d in given if d.split == "IND"]),
        "OOD": mean([sets[d.name] for d in given if d.split == "OOD"]),
        "overall": mean([sets[d.name] for d in given]),
    }
