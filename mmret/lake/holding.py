"""Which files of a lake speak of given pictures: partitions, their earlier versions, and the requests whose answers tell of them.

A table speaks of a picture where a column of ids (``image_id``, ``query_id``, ``hard_negatives``, ...) has its id, or ``pair_id`` a
pair of it. Cost: the columns of ids of every file that is asked about.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmret.atomic import write_text
from mmret.errors import UserError
from mmret.lake import history
from mmret.lake.partitions import PartitionFiles, damaged

LISTINGS = ("corpus_manifest", "rejects", "remarks", "decisions")
"""Tables that say that a row was refused, or what people decided: they hold neither a picture nor what was made of it."""
REQUESTS = "opted_out_requests.json"
"""In ``history/``: keys of the answers that are to go with pictures that opted out."""
_NOTED_FOR = "opted_out_noted.txt"
"""In ``history/``: digest of the ids of the pictures whose requests are noted."""
_SIDES = ("query_id", "target_id")


def files_of(lake: PartitionFiles, table: str) -> Iterator[Path]:
    """Every file of ``table``: its partitions and their earlier versions, each once."""
    seen: set[int] = set()
    for path in (*(lake.root / table).glob("[!.]*.parquet"), *(history.folder(lake) / table).glob("*/[!.]*.parquet")):
        inode = path.stat().st_ino
        if inode not in seen:
            seen.add(inode)
            yield path


def pairs_of(lake: PartitionFiles, pictures: pa.Array) -> pa.Array:
    """Ids of the pairs of which a picture is query or target, as far as a file of the lake still lists them."""
    found = [pa.array([], pa.string())]
    for table in ("pairs", "triplets"):
        for path in files_of(lake, table):
            rows = _read(path, ["pair_id", *_SIDES])
            out = pc.or_(*(pc.is_in(rows[side], value_set=pictures) for side in _SIDES))
            found.append(rows.filter(out)["pair_id"].combine_chunks())
    return pc.unique(pa.concat_arrays(found))


def speaks_of(path: Path, pictures: pa.Array, pairs: pa.Array) -> bool:
    """Whether a Parquet file has one of the ``pictures`` or ``pairs`` in a column of ids."""
    schema = _schema(path)
    ids = [f.name for f in schema if f.name.endswith("_id") and pa.types.is_string(f.type)]
    lists = [f.name for f in schema if f.name == "hard_negatives"]
    rows = _read(path, [*ids, *lists])
    for name in ids:
        if pc.any(pc.is_in(rows[name], value_set=pairs if name == "pair_id" else pictures)).as_py():
            return True
    return any(pc.any(pc.is_in(pc.list_flatten(rows[name]), value_set=pictures)).as_py() for name in lists)


def still_used(lake: PartitionFiles, pictures: pa.Array) -> list[tuple[str, str]]:
    """(table, partition) of the lake as it is that speak of one of the ``pictures``, but for tables that say they were refused."""
    pairs = pairs_of(lake, pictures)
    found = []
    for folder in sorted(lake.root.iterdir()):
        if folder.is_dir() and folder.name not in (*LISTINGS, "fingerprints") and any(folder.glob("[!.]*.parquet")):
            paths = sorted(folder.glob("[!.]*.parquet"))
            found += [(folder.name, path.stem) for path in paths if speaks_of(path, pictures, pairs)]
    return found


def note_opted_out(lake: PartitionFiles, pictures: pa.Array) -> None:
    """:func:`note_requests` where the ``pictures`` that have opted out are others than those it was done for last: a run that was
    stopped in between makes up for it. Call it after each sealing, with none too."""
    path = history.folder(lake) / _NOTED_FOR
    digest = hashlib.sha256("\n".join(sorted(pictures.to_pylist())).encode()).hexdigest() if len(pictures) else ""
    if digest == (path.read_text() if path.is_file() else ""):
        return
    if digest:
        note_requests(lake, pictures)
    write_text(path, digest)


def note_requests(lake: PartitionFiles, pictures: pa.Array) -> int:
    """Note the keys of the requests about pairs of ``pictures`` in ``history/``, while a file still lists them; returns how many
    are noted. Their answers are dropped when the pictures are forgotten."""
    pairs = pairs_of(lake, pictures)
    keys = set(noted_requests(lake))
    before = len(keys)
    for folder in {p.name for p in lake.root.iterdir() if p.is_dir()} - {"history", *LISTINGS}:
        for path in files_of(lake, folder):
            names = _schema(path).names
            if "request_key" not in names or not {"pair_id", "image_id"} & set(names):
                continue
            by, ids = ("pair_id", pairs) if "pair_id" in names else ("image_id", pictures)
            rows = _read(path, [by, "request_key"])
            keys |= set(rows.filter(pc.is_in(rows[by], value_set=ids))["request_key"].drop_null().to_pylist())
    if len(keys) > before:
        write_text(history.folder(lake) / REQUESTS, json.dumps(sorted(keys), indent=0))
    return len(keys)


def noted_requests(lake: PartitionFiles) -> list[str]:
    """The keys that :func:`note_requests` noted, of requests whose answers are still to be dropped."""
    path = history.folder(lake) / REQUESTS
    return json.loads(path.read_text()) if path.is_file() else []


def requests_in_use(lake: PartitionFiles, keys: Collection[str]) -> set[str]:
    """Those of ``keys`` that a row of the lake as it is came from: an answer may serve several pairs."""
    found: set[str] = set()
    wanted = pa.array(sorted(keys), pa.string())
    for path in lake.root.glob("*/[!.]*.parquet"):
        if "request_key" in _schema(path).names:
            used = _read(path, ["request_key"])["request_key"]
            found |= set(used.filter(pc.is_in(used, value_set=wanted)).to_pylist())
    return found


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except pa.ArrowInvalid as error:
        raise UserError(damaged(path, error)) from None


def _read(path: Path, columns: list[str]) -> pa.Table:
    return pq.read_table(path, columns=columns, partitioning=None)
