"""Which files of a lake speak of given pictures: partitions, their earlier versions, and the requests whose answers tell of them.

A table speaks of a picture where a column of ids (``image_id``, ``query_id``, ``hard_negatives``, ...) has its id, or ``pair_id`` a
pair of it. Cost: the columns of ids of every file that is asked about.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmret.errors import UserError
from mmret.lake import history
from mmret.lake.partitions import PartitionFiles, damaged

LISTINGS = ("corpus_manifest", "rejects", "remarks", "decisions")
"""Tables that say that a row was refused, or what people decided: they hold neither a picture nor what was made of it."""
REQUESTS = f"{history.HISTORY}/opted_out_requests.json"
"""Keys of the answers that are to go with pictures that opted out."""
_NOTED_FOR = f"{history.HISTORY}/opted_out_noted.txt"
"""Digest of the ids of the pictures whose requests are noted."""
_SIDES = ("query_id", "target_id")


def files_of(lake: PartitionFiles, table: str) -> Iterator[str]:
    """The key of every file of ``table``: its partitions and their earlier versions, each once where a file has two names."""
    seen: set[str] = set()
    for entry in (*lake.storage.list(table, below=False), *lake.storage.list(f"{history.HISTORY}/{table}")):
        if entry.key.endswith(".parquet") and entry.token not in seen:
            seen.add(entry.token)
            yield entry.key


def pairs_of(lake: PartitionFiles, pictures: pa.Array) -> pa.Array:
    """Ids of the pairs of which a picture is query or target, as far as a file of the lake still lists them."""
    found = [pa.array([], pa.string())]
    for table in ("pairs", "triplets"):
        for key in files_of(lake, table):
            rows = _read(lake, key, ["pair_id", *_SIDES])
            out = pc.or_(*(pc.is_in(rows[side], value_set=pictures) for side in _SIDES))
            found.append(rows.filter(out)["pair_id"].combine_chunks())
    return pc.unique(pa.concat_arrays(found))


def speaks_of(lake: PartitionFiles, key: str, pictures: pa.Array, pairs: pa.Array) -> bool:
    """Whether the Parquet file at ``key`` has one of the ``pictures`` or ``pairs`` in a column of ids."""
    schema = _schema(lake, key)
    ids = [f.name for f in schema if f.name.endswith("_id") and pa.types.is_string(f.type)]
    lists = [f.name for f in schema if f.name == "hard_negatives"]
    rows = _read(lake, key, [*ids, *lists])
    for name in ids:
        if pc.any(pc.is_in(rows[name], value_set=pairs if name == "pair_id" else pictures)).as_py():
            return True
    return any(pc.any(pc.is_in(pc.list_flatten(rows[name]), value_set=pictures)).as_py() for name in lists)


def still_used(lake: PartitionFiles, pictures: pa.Array) -> list[tuple[str, str]]:
    """(table, partition) of the lake as it is that speak of one of the ``pictures``, but for tables that say they were refused."""
    pairs = pairs_of(lake, pictures)
    found = []
    for table in lake.storage.folders():
        if table not in (*LISTINGS, "fingerprints"):
            partitions = lake.partitions(table)
            found += [(table, each) for each in partitions if speaks_of(lake, lake.key(table, each), pictures, pairs)]
    return found


def note_opted_out(lake: PartitionFiles, pictures: pa.Array) -> None:
    """:func:`note_requests` where the ``pictures`` that have opted out are others than those it was done for last: a run that was
    stopped in between makes up for it. Call it after each sealing, with none too."""
    if is_noted(lake, pictures):
        return
    if len(pictures):
        note_requests(lake, pictures)
    lake.storage.write(_NOTED_FOR, _digest(pictures).encode())


def is_noted(lake: PartitionFiles, pictures: pa.Array) -> bool:
    """Whether :func:`note_opted_out` was last called with these ``pictures``, and has nothing to do."""
    return _digest(pictures) == (lake.storage.read_with_token(_NOTED_FOR)[0] or b"").decode()


def _digest(pictures: pa.Array) -> str:
    return hashlib.sha256("\n".join(sorted(pictures.to_pylist())).encode()).hexdigest() if len(pictures) else ""


def note_requests(lake: PartitionFiles, pictures: pa.Array) -> int:
    """Note the keys of the requests about pairs of ``pictures`` in ``history/``, while a file still lists them; returns how many
    are noted. Their answers are dropped when the pictures are forgotten."""
    pairs = pairs_of(lake, pictures)
    keys: set[str] = set()
    for table in set(lake.storage.folders()) - {history.HISTORY, *LISTINGS}:
        for key in files_of(lake, table):
            names = _schema(lake, key).names
            if "request_key" not in names or not {"pair_id", "image_id"} & set(names):
                continue
            by, ids = ("pair_id", pairs) if "pair_id" in names else ("image_id", pictures)
            rows = _read(lake, key, [by, "request_key"])
            keys |= set(rows.filter(pc.is_in(rows[by], value_set=ids))["request_key"].drop_null().to_pylist())
    known = noted_requests(lake)
    if keys <= set(known):
        return len(known)
    noted = lake.storage.update(REQUESTS, lambda data: json.dumps(sorted(keys.union(json.loads(data or b"[]"))), indent=0).encode())
    return len(json.loads(noted))


def noted_requests(lake: PartitionFiles) -> list[str]:
    """The keys that :func:`note_requests` noted, of requests whose answers are still to be dropped."""
    return json.loads(lake.storage.read_with_token(REQUESTS)[0] or b"[]")


def requests_in_use(lake: PartitionFiles, keys: Collection[str]) -> set[str]:
    """Those of ``keys`` that a row of the lake as it is came from: an answer may serve several pairs."""
    found: set[str] = set()
    wanted = pa.array(sorted(keys), pa.string())
    files = (lake.key(table, each) for table in lake.storage.folders() for each in lake.partitions(table))
    for key in files:
        if "request_key" in _schema(lake, key).names:
            used = _read(lake, key, ["request_key"])["request_key"]
            found |= set(used.filter(pc.is_in(used, value_set=wanted)).to_pylist())
    return found


def _schema(lake: PartitionFiles, key: str) -> pa.Schema:
    try:
        with lake.storage.open(key) as file:
            return pq.read_schema(file)
    except pa.ArrowInvalid as error:
        raise UserError(damaged(lake.storage, key, error)) from None


def _read(lake: PartitionFiles, key: str, columns: list[str]) -> pa.Table:
    with lake.storage.open(key) as file:
        return pq.read_table(file, columns=columns, partitioning=None)
