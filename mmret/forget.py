"""Removes for good what a lake still holds of pictures that have opted out: their bytes, vectors, texts and thumbnails.

The lake's current tables do without them already. This drops what keeps the past: versions of partitions that speak of them, though
a checkpoint may have been trained on those; earlier versions of Lance tables; vectors by checkpoints, fingerprints, stored answers,
teachers' scores, training in progress, files that were fetched by their addresses, and the lake's own record of runs, which has
contact sheets. What the source says of a picture (caption, address, other columns) stays in its row of the manifest, and remarks
may quote it. What it says of a checkpoint is noted first, so that it may be interrupted and run again. Cost: the columns of ids of
every version and of the stored answers, and rewriting Lance files that held such rows. Readers of an earlier state of the lake, and
a server that has not noticed the change, lose what they read.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmret.annotate.store import AnswerStore
from mmret.curation.opted_out import opted_out_ids
from mmret.errors import UserError
from mmret.ingest.object_store.lost import ending_when_lost
from mmret.ingest.pictures import image_table
from mmret.ingest.selection import NO_CAPTION
from mmret.ingest.web.fetched import fetched_folder
from mmret.lake import Lake, history
from mmret.lake.configuration import URL_LIST
from mmret.lake.data_sets import data_set
from mmret.lake.holding import LISTINGS, REQUESTS, note_requests, noted_requests, pairs_of, requests_in_use, speaks_of, still_used
from mmret.retriever.opted_out_since import all_opted_out_since
from mmret.schemas import WRITTEN_WHEN_NEEDED

_FETCHED = re.compile(r"[0-9a-f]{2}/[0-9a-f]{32}")
"""Names of files that a source of addresses makes."""


@dataclass
class Forgotten:
    """What was dropped. ``checkpoints``: those trained on such pictures, with how many; ``unlisted``: those whose exact rows can no
    longer be listed. ``answers_of_unknown_pictures`` stay: an older version stored them without saying what they are
    about, and no row came from them (an attempt that failed, a judge's verdict, a pair that is no more)."""

    pictures: int = 0
    versions: int = 0
    lance_files: int = 0
    vectors_by_checkpoints: int = 0
    fingerprints: int = 0
    downloads: int = 0
    answers: int = 0
    answers_of_unknown_pictures: int = 0
    trainings_in_progress: int = 0
    run_history: int = 0
    checkpoints: dict[str, int] = field(default_factory=dict)
    unlisted: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def forget_opted_out(lake: Lake, unused: Collection[tuple[str, str]] = ()) -> Forgotten:
    """Drop everything in ``lake`` that still holds a picture that has opted out. Only the holder of the lake's lease may call it.

    ``unused``: (table, partition) that no stage keeps up to date any more; they are deleted with their versions.

    Raises UserError where current tables still use such a picture, or where somebody tagged a Lance version.

    >>> forget_opted_out(lake).unlisted
    """
    gone = opted_out_ids(lake)
    done = Forgotten(pictures=len(gone))
    if not len(gone):
        return done
    for table, partition in unused:
        lake.remove(table, partition)
    _drop_scores(lake, gone)
    if used := still_used(lake, gone):
        raise UserError(
            f"{len(gone):,} pictures have opted out, and {len(used)} partitions still use some of them "
            f"({', '.join('/'.join(each) for each in used[:3])}): run `mmret run --lake {lake.address}` first"
        )
    _refuse_tagged(lake)
    done.checkpoints = all_opted_out_since(lake)
    note_requests(lake, gone)
    _drop_versions(lake, gone, done)
    _drop_from_lance(lake, gone, done)
    _drop_copies(lake, gone, done)
    _drop_downloads(lake, gone, done)
    _drop_answers(lake, gone, done)
    if not lake.storage.is_local:  # copies of objects, which this machine makes again where it needs them
        for path in lake.scratch.glob("[!.]*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return done


def _drop_scores(lake: Lake, gone: pa.Array) -> None:
    """Take the pictures, and pairs that went with them, out of tables that no stage brings up to date."""
    triplets = lake.read("triplets", columns=["pair_id"])["pair_id"].combine_chunks()
    pairs = pairs_of(lake, gone)
    for table in WRITTEN_WHEN_NEEDED:
        for partition in lake.partitions(table):
            facts, rows = lake.facts(table, partition), lake.read(table, partition)
            out = pc.or_(*(pc.is_in(rows[name], value_set=gone) for name in ("query_id", "candidate_id")))
            with_them = rows.filter(out)["pair_id"].combine_chunks()
            ended = with_them.filter(pc.invert(pc.is_in(with_them, value_set=triplets)))
            ids = pc.unique(pa.concat_arrays([pairs, ended]))
            kept = rows.filter(pc.invert(pc.or_(out, pc.is_in(rows["pair_id"], value_set=ids))))
            if kept.num_rows < rows.num_rows:
                lake.write(table, partition, kept, facts.inputs, **facts.notes)


def _drop_versions(lake: Lake, gone: pa.Array, done: Forgotten) -> None:
    pairs = pairs_of(lake, gone)
    doomed = [where for where in _versions(lake) if _holds(lake, where[0], where[2].key, gone, pairs)]
    digests = {(table, partition, version.digest) for table, partition, version, _ in doomed}
    digests -= {(t, p, v.digest) for t, p, v, _ in _versions(lake) if v.key not in {d[2].key for d in doomed}}
    names = (entry.key.rpartition("/")[2] for entry in lake.storage.list(history.STATES, below=False))
    states = {
        state
        for state in (name.removesuffix(".json") for name in names if name.endswith(".json"))
        for table, parts in history.read_state(lake, state).items()
        if any((table, partition, digest) in digests for partition, digest in parts.items())
    }
    by_state = {
        name: facts.notes["state"]
        for name in lake.partitions("checkpoints")
        if (facts := lake.facts("checkpoints", name)) and facts.notes.get("state") in states
    }
    history.note_forgotten(lake, {state: done.checkpoints.get(name, 0) for name, state in by_state.items()})
    done.unlisted = sorted(by_state)
    for table, _, version, replaced in doomed:
        history.note_dropped(lake, table, replaced)
        lake.storage.delete([version.key])
        done.versions += 1


def _versions(lake: Lake) -> Iterator[tuple[str, str, history.Version, int]]:
    """Table, partition, version and the time of its replacement, of every version that is not the current one."""
    for table in lake.storage.folders(history.HISTORY):
        if f"{history.HISTORY}/{table}" == history.STATES or table in ("rejects", "remarks", "decisions"):
            continue
        for partition in lake.storage.folders(f"{history.HISTORY}/{table}"):
            current = history.current_version(lake, table, partition)
            versions = history.versions(lake, table, partition)
            for at, version in enumerate(versions):
                if version.key != current:
                    yield table, partition, version, versions[at + 1].written if at + 1 < len(versions) else version.written


def _holds(lake: Lake, table: str, key: str, gone: pa.Array, pairs: pa.Array) -> bool:
    if table not in LISTINGS:
        return speaks_of(lake, key, gone, pairs)
    # of the manifest: the picture was an image then, or could be one
    live = pc.field("reason").is_null() | pc.field("reason").isin([NO_CAPTION])
    with lake.storage.open(key) as file:
        rows = pq.read_table(file, columns=["image_id"], filters=live, partitioning=None)
    return pc.any(pc.is_in(rows["image_id"], value_set=gone)).as_py() or False


# -- Lance tables -----------------------------------------------------------------------------------------------------


def _lance_tables(lake: Lake) -> list[Any]:
    return [lake.lance(name) for name in lake.lance_names() if lake.has_lance(name)]


def _refuse_tagged(lake: Lake) -> None:
    for table in _lance_tables(lake):
        if tags := sorted(data_set(table).tags.list()):
            raise UserError(
                f"Lance table {table.name} has tagged versions ({', '.join(tags)}), which may hold pictures that opted out and "
                "are not dropped: delete the tags first"
            )


def _drop_from_lance(lake: Lake, gone: pa.Array, done: Forgotten) -> None:
    ids = gone.to_pylist()
    for table in _lance_tables(lake):
        if "image_id" in table.schema.names:
            for at in range(0, len(ids), 4096):
                some = f"image_id IN ({', '.join(map(repr, ids[at : at + 4096]))})"
                if table.count_rows(some):
                    table.delete(some)
        for index in table.list_indices():
            table.drop_index(index.name)  # it holds ids or vectors; whoever needs it builds it again
        data = data_set(table)
        data.optimize.compact_files(materialize_deletions=True, materialize_deletions_threshold=0.0)
        cleaned = data_set(table).cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
        done.lance_files += cleaned.data_files_removed + cleaned.index_files_removed + cleaned.deletion_files_removed
    if lake.has_lance("images"):
        image_table.index(lake.lance("images"))


# -- what lies beside the tables --------------------------------------------------------------------------------------


def _drop_copies(lake: Lake, gone: pa.Array, done: Forgotten) -> None:
    for key in _tables_that_list(lake, "gallery", gone):
        lake.storage.delete([f"{key.removesuffix('.parquet')}.npy", key])
        done.vectors_by_checkpoints += 1
    for key in _tables_that_list(lake, "fingerprints", gone):
        lake.storage.delete([key])
        done.fingerprints += 1
    for name in lake.storage.folders("checkpoints"):
        if name.endswith(".work"):
            lake.storage.delete_below(f"checkpoints/{name}")
            done.trainings_in_progress += 1
    if (home := lake.scratch / ".dagster").is_dir():
        shutil.rmtree(home)
        done.run_history += 1


def _drop_downloads(lake: Lake, gone: pa.Array, done: Forgotten) -> None:
    """Delete what a source of addresses has fetched of the pictures: files that the user made are the user's."""
    theirs = pc.field("image_id").isin(gone) & pc.starts_with(pc.field("root"), URL_LIST)
    for row in lake.read("corpus_manifest", columns=["root", "path", "image_id"], filters=theirs).to_pylist():
        if _FETCHED.fullmatch(row["path"]):
            with ending_when_lost():
                done.downloads += fetched_folder(row["root"]).remove(row["path"], row["image_id"])


def _tables_that_list(lake: Lake, folder: str, gone: pa.Array) -> list[str]:
    """Keys of the Parquet files in ``folder``, but of benchmarks, that name one of the pictures."""
    keys = (entry.key for entry in lake.storage.list(folder) if "/benchmarks/" not in entry.key)
    return [key for key in keys if key.endswith(".parquet") and _lists(lake, key, gone)]


def _lists(lake: Lake, key: str, gone: pa.Array) -> bool:
    with lake.storage.open(key) as file:
        parquet = pq.ParquetFile(file)
        rows = parquet.read([c for c in ("image_id", "name") if c in parquet.schema_arrow.names])
    return any(pc.any(pc.is_in(column, value_set=gone)).as_py() for column in rows.columns)


def _drop_answers(lake: Lake, gone: pa.Array, done: Forgotten) -> None:
    store = AnswerStore(lake.storage)
    noted = set(noted_requests(lake))
    about, unknown = store.keys_about(gone)
    doomed = noted | about
    done.answers = store.remove(doomed - requests_in_use(lake, doomed))
    unknown -= doomed
    done.answers_of_unknown_pictures = len(unknown - requests_in_use(lake, unknown)) if unknown else 0
    lake.storage.delete([REQUESTS])
