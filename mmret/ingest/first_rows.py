"""Stops before anything is sealed where nothing of a new source can be used, and says the commonest reason and what to do.

Cost: the listing up to its first row that can be used, and as a rule one decoded picture; names and metadata of a few hundred where
they have no captions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from mmret.errors import UserError
from mmret.ingest.pictures.decode import Unreadable, inspect
from mmret.ingest.rows import Row, Source
from mmret.ingest.selection import NO_CAPTION
from mmret.settings import CaptionSettings, IngestSettings

_FEWEST = 12  # rows that all fail: fewer are rejects as any other
_PICTURES = 200  # decoded before a source is given up
_SAMPLE = 200  # pictures without a caption whose names and metadata are looked at
_FEWEST_FOUND = 0.1  # of them that must say something; else a run would be spent on what is left
_FEWEST_TEXTS = 3  # that differ: one name for all pictures tells none from another

_ADVICE = {
    NO_CAPTION: "write captions.csv with the columns image and caption into the folder, or a text beside each picture "
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
ASK_A_MODEL = (
    "or have a vision-language model write them, for example one that a server answers for: --set captions.missing=model "
    "--set captions.engine.model=NAME --set captions.engine.urls=[http://localhost:8000/v1]"
)


def check_first_rows(
    source: Source, rows: Iterator[Row], settings: IngestSettings, captions: CaptionSettings | None = None
) -> None:
    """Raise UserError where none of ``rows``, the listing of ``source`` with captions cleaned, is a picture that can be used.

    ``captions``: where pictures without a caption get theirs; None: nowhere.
    """
    refused: Counter[str] = Counter()
    first: dict[str, Row] = {}
    pictures = []
    if captions is not None and captions.missing != "reject":
        rows = _with_captions_to_come(source, rows, captions, refused, first)
    for row in rows:
        if row.reason is None:
            pictures.append(row)
            break
        refused[row.reason] += 1
        first.setdefault(row.reason, row)
    else:
        _give_up(source, refused, first, captions)
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
    _give_up(source, refused, first, captions)


def _with_captions_to_come(
    source: Source, rows: Iterator[Row], captions: CaptionSettings, refused: Counter[str], first: dict[str, Row]
) -> Iterator[Row]:
    """``rows``, those without a caption as if they had the one that will be found for them or written.

    They come last, as many as it takes to tell whether there will be enough; the others go to ``refused`` and ``first``.
    """
    waiting: list[Row] = []
    for row in rows:
        if row.reason != NO_CAPTION:
            yield row
        elif captions.missing == "model":
            yield row_with(row, "to be written")
        elif len(waiting) < _SAMPLE:
            waiting.append(row)
        else:
            break
    found = {row.path: text for row in waiting if (text := _found(source, row, captions))}
    enough = len(found) >= _FEWEST_FOUND * len(waiting) and len(set(found.values())) >= _FEWEST_TEXTS
    for row in waiting:
        if row.path in found and (enough or len(waiting) < _FEWEST):
            yield row_with(row, found[row.path])
        else:
            refused[NO_CAPTION] += 1
            first.setdefault(NO_CAPTION, row)
    yield from rows


def row_with(row: Row, caption: str) -> Row:
    """``row``, refused for want of a caption, with one."""
    return Row(row.path, caption, row.licence, row.source, row.extra, row.size, row.mtime_ns)


def _found(source: Source, row: Row, captions: CaptionSettings) -> str | None:
    def read() -> bytes:
        stream, size = source.open(row.path)
        with stream:
            return stream.read(size)

    from mmret.ingest.found_captions import found_caption, named_caption  # not for sources that were listed before

    named = named_caption(source.root, row.path)
    if named:
        return named.text
    try:
        found = found_caption(source.root, row.path, read, captions)
    except (Unreadable, OSError):
        return None
    return found and found.text


def _give_up(source: Source, refused: Counter[str], first: dict[str, Row], captions: CaptionSettings | None) -> None:
    if refused.total() < _FEWEST:
        return
    (reason, count), total = refused.most_common(1)[0], refused.total()
    row = first[reason]
    seen = next((f" {r.path} {r.detail}." for r in source.remarks if r.remark in ("not_a_manifest", "text_without_picture")), "")
    of = "all" if count == total else f"{count} of them"
    advice = _ADVICE.get(reason, "mend the files, or give another folder")
    detail = row.detail
    if reason == NO_CAPTION and captions is not None:
        detail = f"{detail}; {_says_too_little(captions)}" if captions.missing == "names" else detail
        advice = f"{advice}, {ASK_A_MODEL}"
    raise UserError(
        f"{source.root}: none of its first {total} rows can be used, {of} for {reason.replace('_', ' ')}, beginning with "
        f"{row.path:.200} ({detail}).{seen} Nothing was sealed: {advice}; or take the source out again (--remove)"
    )


def _says_too_little(captions: CaptionSettings) -> str:
    within = ", or descriptions inside the files," if captions.embedded else ""
    return f"the names of files and folders{within} say of too few pictures what they show"
