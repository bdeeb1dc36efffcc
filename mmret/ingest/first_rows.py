"""Stops before anything is sealed where nothing of a new source can be used, and says the commonest reason and what to do.

Cost: the listing up to its first row that can be used, and as a rule one decoded picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from mmret.errors import UserError
from mmret.ingest.pictures.decode import Unreadable, inspect
from mmret.ingest.rows import Row, Source
from mmret.settings import IngestSettings

_FEWEST = 12  # rows that all fail: fewer are rejects as any other
_PICTURES = 200  # decoded before a source is given up

_ADVICE = {
    "no_caption": "write captions.csv with the columns image and caption into the folder, or a text beside each picture "
    "(a.txt for a.jpg)",
    "unsafe_path": "write paths relative to the manifest, or give the folder in which all the pictures lie; "
    "copy what is linked (cp -rL)",
    "missing_file": "paths count from the manifest's folder",
    "bad_caption": "save the captions as UTF-8",
    "private_address": "set corpus.download.inside=true",
    "no_answer": "look at the addresses, and whether this machine reaches the network (proxies are not used)",
    "zero_bytes": "the files are empty: copy or download them again",
    "duplicate_name": "rename the members of the tar",
}


def check_first_rows(source: Source, rows: Iterator[Row], settings: IngestSettings) -> None:
    """Raise UserError where none of ``rows``, the listing of ``source`` with captions cleaned, is a picture that can be used."""
    refused: Counter[str] = Counter()
    first: dict[str, Row] = {}
    pictures = []
    for row in rows:
        if row.reason is None:
            pictures.append(row)
            break
        refused[row.reason] += 1
        first.setdefault(row.reason, row)
    else:
        _give_up(source, refused, first)
    for row in (*pictures, *islice((row for row in rows if row.reason is None), _PICTURES - 1)):
        try:
            stream, size = source.open(row.path)
            with stream:
                inspect(stream.read(size), settings)
        except (Unreadable, OSError) as why:
            failure = why if isinstance(why, Unreadable) else Unreadable("unreadable", why.strerror or str(why))
            refused[failure.reason] += 1
            first.setdefault(failure.reason, row.refuse(failure.reason, failure.detail))
        else:
            return
    _give_up(source, refused, first)


def _give_up(source: Source, refused: Counter[str], first: dict[str, Row]) -> None:
    if refused.total() < _FEWEST:
        return
    (reason, count), total = refused.most_common(1)[0], refused.total()
    row = first[reason]
    seen = next((f" {r.path} {r.detail}." for r in source.remarks if r.remark in ("not_a_manifest", "text_without_picture")), "")
    of = "all" if count == total else f"{count} of them"
    advice = _ADVICE.get(reason, "mend the files, or give another folder")
    raise UserError(
        f"{source.root}: none of its first {total} rows can be used, {of} for {reason.replace('_', ' ')}, beginning with "
        f"{row.path:.200} ({row.detail}).{seen} Nothing was sealed: {advice}; or take the source out again (--remove)"
    )
