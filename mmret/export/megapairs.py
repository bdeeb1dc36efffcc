"""MegaPairs' own release format: one JSON object a line and a folder of images (paper.md: "Record").

``{"q_img", "q_text": [...], "t_img", "hns": [...]}`` with paths relative to ``images/``; ``hns[0]`` is the query image.
Pictures are written once each, as they were found, under ``images/<first two digits>/<image_id>.<extension>``. Triplets that the
licence settings keep apart have a folder of their own, named after the term. Memory is a shard's triplets and a batch of pictures.
"""

from __future__ import annotations

import json
from pathlib import Path

from mmret import progress
from mmret.curation.licences import MAIN
from mmret.export.folder import ExportFolder, whole_folder
from mmret.export.pictures import PictureNames, batches
from mmret.export.rows import ExportSettings, Plan, plan, triplets
from mmret.lake import Lake
from mmret.settings import Profile

_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


def export_megapairs(lake: Lake, profile: Profile, out: Path, settings: ExportSettings | None = None) -> Plan:
    """Write ``<split>.jsonl`` and ``images/`` to ``out``; returns what was written.

    ``profile`` is for the card, which this format does not have. The folder appears whole or not at all. Raises UserError where
    ``out`` exists or there is nothing to export.
    """
    settings = settings or ExportSettings()
    export_plan = plan(lake, settings, "megapairs 2")
    with whole_folder(out, export_plan.identity) as work:
        names = PictureNames(lake)
        for name in export_plan.sets():
            for split in settings.splits:
                work.file(
                    f"{set_folder(name)}{split}.jsonl", lambda path, n=name, s=split: _lines(lake, export_plan, path, (n, s), names)
                )
            _pictures(lake, work, export_plan, name, names)
    return export_plan


def set_folder(name: str) -> str:
    """Where a set lies in an export: the top folder for ``main``."""
    return "" if name == MAIN else f"{name}/"


def json_line(record: object) -> str:
    """``record`` as JSON that is one line to every reader: Unicode's other line ends are escaped too."""
    return json.dumps(record, ensure_ascii=False).translate(_LINE_ENDS)


def _lines(lake: Lake, export_plan: Plan, path: Path, key: tuple[str, str], names: PictureNames) -> None:
    with open(path, "w", encoding="utf-8") as lines:
        for shard, count in export_plan.rows.get(key, {}).items():
            rows = triplets(lake, shard, export_plan.settings)[key].to_pylist() if count else []
            name = {
                i: f"{i[:2]}/{n}"
                for i, n in names.of([i for r in rows for i in (r["query_id"], r["target_id"], *r["hard_negatives"])]).items()
            }
            for row in rows:
                record = {
                    "q_img": name[row["query_id"]],
                    "q_text": row["texts"],
                    "t_img": name[row["target_id"]],
                    "hns": [name[i] for i in row["hard_negatives"]],
                }
                lines.write(json_line(record) + "\n")


def _pictures(lake: Lake, work: ExportFolder, export_plan: Plan, name: str, names: PictureNames) -> None:
    wanted, done = export_plan.images[name], 0
    for start in range(0, len(wanted), 1024):
        paths = {i: f"{set_folder(name)}images/{i[:2]}/{n}" for i, n in names.of(wanted[start : start + 1024]).items()}
        missing = [i for i, path in paths.items() if not (work.folder / path).is_file()]
        for rows in batches(lake, missing):
            for row in rows:
                work.file(paths[row["image_id"]], lambda path, data=row["data"]: path.write_bytes(data))
        done += len(paths)
        progress.advance("export", done, len(wanted))
