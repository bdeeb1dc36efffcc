"""WebDataset: tars that stream, a triplet a sample, as the `webdataset` library reads them.

A sample's key is its pair id. ``json`` has the row of table ``triplets``; ``query.<ext>`` and ``target.<ext>`` are the pictures
as they were found, ``negative1.<ext>`` and so on those of its first mined hard negatives, since a stream has no look-up by id. A
picture is thus stored once per triplet that shows it. Times and owners in the tar are fixed: the same rows make the same bytes.
The standard library writes it: importing `webdataset` would bring in torch, and 0.4 GB.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmret import progress
from mmret.export.folder import whole_folder
from mmret.export.megapairs import json_line, set_folder
from mmret.export.pictures import mean_bytes, pictures, suffix
from mmret.export.rows import ExportSettings, Piece, Plan, plan, triplets
from mmret.lake import Lake
from mmret.settings import Profile

_ROWS = 32  # triplets whose pictures are looked up at once


def export_webdataset(lake: Lake, profile: Profile, out: Path, settings: ExportSettings | None = None) -> Plan:
    """Write ``<split>-<number>.tar`` and the data card to ``out``; returns what was written. Raises what :func:`plan` does."""
    from mmret.export.data_card import ExportFacts, write_data_card

    settings = settings or ExportSettings()
    export_plan = plan(lake, settings, "webdataset 1")
    pieces = export_plan.pieces(max(1, settings.file_bytes // ((2 + settings.negatives) * mean_bytes(lake) + 2048)))
    with whole_folder(out, export_plan.identity) as work:
        for at, piece in enumerate(pieces):
            name = f"{set_folder(piece.set)}{piece.split}-{piece.number:06d}.tar"
            work.file(name, lambda path, p=piece: _write(lake, export_plan, p, path))
            progress.advance("export", at + 1, len(pieces))
        write_data_card(lake, profile, work.folder / "README.md", ExportFacts("webdataset", export_plan))
    return export_plan


def _write(lake: Lake, export_plan: Plan, piece: Piece, path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, files in _samples(lake, export_plan, piece):
            for name in sorted(files):
                entry = tarfile.TarInfo(f"{key}.{name}")
                entry.size, entry.mode = len(files[name]), 0o644
                tar.addfile(entry, io.BytesIO(files[name]))


def _samples(lake: Lake, export_plan: Plan, piece: Piece) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and files of every sample."""
    rows = triplets(lake, piece.shard, export_plan.settings)[piece.set, piece.split].slice(piece.start, piece.rows)
    for start in range(0, rows.num_rows, _ROWS):
        some = rows.slice(start, _ROWS).to_pylist()
        shown = [_roles(row, export_plan.settings.negatives) for row in some]
        found = pictures(lake, [i for roles in shown for i in roles.values()])
        for row, roles in zip(some, shown, strict=True):
            files = {f"{role}.{suffix(found[i]['format'])}": found[i]["data"] for role, i in roles.items()}
            yield row["pair_id"], {"json": json_line(row).encode(), **files}


def _roles(row: dict[str, Any], negatives: int) -> dict[str, str]:
    """Role to image id. The query image, hns[0], and the target are not repeated among the negatives."""
    mined = [i for i in row["hard_negatives"] if i not in (row["query_id"], row["target_id"])][:negatives]
    return {"query": row["query_id"], "target": row["target_id"], **{f"negative{n}": i for n, i in enumerate(mined, 1)}}
