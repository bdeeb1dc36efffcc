"""The stage ``written_captions``: a row for each picture of a shard whose source gives no caption, or a poor one.

What the picture brings along comes first (a description in its file, else the words of its name), or a vision-language model writes
the caption, as the settings say. Every such picture is a row with a status; stage ``images`` takes the texts. Cost without a model:
a read of each file, and 0.3 ms. Memory stays flat, whatever the size of the corpus: one shard of rows and the files of one batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from mmret.annotate.answers import Stats
from mmret.annotate.parse import MODEL_PARSER_VERSION
from mmret.annotate.partitions import answer_notes, earlier_rows, experience
from mmret.annotate.protocol import Annotator
from mmret.annotate.retry import retry_notes
from mmret.annotate.rows import ParsedAnswer
from mmret.annotate.store import AnswerStore
from mmret.captions.asking import LoadCaptioner, ask_for_captions
from mmret.captions.captioner import captioning_of
from mmret.captions.poor import is_poor
from mmret.captions.wanting import TABLE, rows_to_caption
from mmret.ingest.found_captions import SAYS_NOTHING, Found, found_caption
from mmret.ingest.object_store.lost import ending_when_lost
from mmret.ingest.object_store.read_ahead import reads_at_once
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.pictures.images import BATCH_BYTES
from mmret.ingest.sources import open_reader, read_as_sealed
from mmret.lake import Facts, Lake
from mmret.progress import advance
from mmret.schemas import WRITTEN_CAPTIONS
from mmret.settings import CaptionSettings, Profile
from mmret.threads import in_order

Row = dict[str, Any]


def write_captions(lake: Lake, shard: str, profile: Profile, load: LoadCaptioner, inputs: str) -> tuple[Facts, int]:
    """Write ``written_captions`` of a shard; returns its facts and how many rows were worked on.

    Where the partition was made from the same ``inputs``, only requests that got no answer are sent again. Raises UserError where
    no request to the model can succeed.

    >>> write_captions(lake, "shard-00000", profile, load_captioner, fingerprint)
    """
    settings, stats = profile.captions, Stats()
    earlier, notes = earlier_rows(lake, TABLE, shard, inputs)
    done = set(earlier["position"].to_pylist())
    wanting = rows_to_caption(lake, shard, settings)
    missing = [row for row in wanting.missing if row["position"] not in done]
    poor = [row for row in wanting.poor if row["position"] not in done]
    rows: list[Row] = []
    to_ask: list[Row] = []
    remarks: list[str] = []
    for row, found in _found_in([*missing, *poor], settings):
        if found is not None:
            rows.append(_row(shard, row, found.text, found.origin))
        elif row["caption"] is not None or settings.missing == "model":
            to_ask.append(row)
        else:
            rows.append(_row(shard, row, None, None, reason=SAYS_NOTHING))
    if to_ask:
        asking = captioning_of(profile)
        captioner = load(asking)
        asked_before = earlier["request_key"].null_count < earlier.num_rows
        captioner.experience = experience(lake, TABLE, captioner.model_for("caption"), asked_before)
        captioner.storage = lake.storage
        answers = ask_for_captions(to_ask, captioner, asking, AnswerStore(lake.storage), stats)
        rows += [_asked_row(shard, row, answer, captioner) for row, answer in zip(to_ask, answers, strict=True)]
        remarks = captioner.remarks
    table = pa.concat_tables([earlier, pa.Table.from_pylist(rows, schema=WRITTEN_CAPTIONS)]).sort_by("position")
    asked = answer_notes(table.filter(table["request_key"].is_valid()), stats, remarks) if settings.asks_model else {}
    facts = lake.write(TABLE, shard, table, inputs, **asked, origins=_origins(table), **retry_notes(table, notes))
    return facts, len(rows)


def _found_in(rows: Sequence[Row], settings: CaptionSettings) -> Any:
    """(row, what was found for it or None), in order; a few files are read ahead."""
    readers = {root: open_reader(root) for root in {row["root"] for row in rows}}

    def find(row: Row) -> Found | None:
        try:
            found = found_caption(row["root"], row["path"], lambda: read_as_sealed(readers[row["root"]], row), settings)
        except (Unreadable, OSError):  # stage images says why it cannot be read
            found = None
        if row["caption"] is None or found is None:
            return found
        # names stand for no caption that there is, and a poor description for none
        named = found.origin.endswith("_name") or (settings.poor is not None and is_poor(found.text, row["path"], settings.poor))
        return None if named else found

    found_in_order = in_order(find, rows, reads_at_once(*readers), size=lambda row: row["size"] or 0, limit=BATCH_BYTES)
    with ending_when_lost():
        for at, (row, found) in enumerate(found_in_order):
            yield row, found
            advance(TABLE, at + 1, len(rows))


def _row(shard: str, row: Row, text: str | None, origin: str | None, reason: str | None = None, **of_model: Any) -> Row:
    return {
        "shard": shard,
        **{name: row[name] for name in ("position", "root", "path", "image_id")},
        "source_caption": row["caption"],
        "text": text,
        "origin": origin,
        "status": "failed" if text is None else "ok",
        "reason": reason,
        "tokens_in": 0,
        "tokens_out": 0,
        **of_model,
    }


def _asked_row(shard: str, row: Row, answered: ParsedAnswer, captioner: Annotator) -> Row:
    model, parsed = captioner.model_for("caption"), answered.parsed
    return _row(
        shard,
        row,
        None if parsed.reason else parsed.texts[0],
        None if parsed.reason else f"model:{model}",
        parsed.reason or None,
        request_key=answered.key,
        model=model,
        prompt_version=captioner.prompt_version("caption"),
        parser_version=MODEL_PARSER_VERSION,
        tokens_in=answered.answer.tokens_in,
        tokens_out=answered.answer.tokens_out,
    )


def _origins(rows: pa.Table) -> dict[str, list[Any]]:
    """By origin ("" for none): how many, and path and text of the first."""
    origins = [origin or "" for origin in rows["origin"].to_pylist()]
    first = {origin: rows.slice(at, 1).to_pylist()[0] for at, origin in reversed(list(enumerate(origins)))}
    return {origin: [n, first[origin]["path"], first[origin]["text"]] for origin, n in Counter(origins).most_common()}
