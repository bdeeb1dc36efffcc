"""Triplets: the query image is the first negative, no pair is lost without a reason, the split is the image's own."""

import io

import pyarrow as pa
from PIL import Image

from assets.display.contact_sheet import contact_sheet
from mmret.assemble.triplets import assemble
from mmret.curation.split import split_of
from mmret.schemas import DESCRIPTIONS, INSTRUCTIONS, PAIRS, TRIPLETS
from mmret.settings import EvaluateSettings

SETTINGS = EvaluateSettings(held_out=0.3)


def tables(n: int = 40) -> tuple[pa.Table, ...]:
    pairs = [
        {"pair_id": f"p{i}", "query_id": f"q{i}", "target_id": f"t{i}", "signals": ["caption"], "hard_negatives": [f"n{i}"]}
        for i in range(n)
    ]
    described = [{"pair_id": f"p{i}", "text": "d", "model": "m", "status": "failed" if i == 1 else "ok"} for i in range(n)]
    instructed = [
        {"pair_id": f"p{i}", "texts": ["a", "b", "c"], "model": "m", "status": "rejected" if i == 2 else "ok"} for i in range(n)
    ]
    images = [
        {"image_id": f"{r}{i}", "path": f"{r}/{i}.png", "licence": {"q": "CC0", "t": "CC0" if i % 2 else None}[r]}
        for i in range(n)
        for r in "qt"
        if (r, i) != ("t", 3)
    ]
    return (
        pa.Table.from_pylist(pairs, PAIRS),
        pa.Table.from_pylist(described, DESCRIPTIONS),
        pa.Table.from_pylist(instructed, INSTRUCTIONS),
        pa.Table.from_pylist(images),
    )


def test_every_pair_becomes_a_triplet_or_is_counted_with_a_reason():
    rows, left_out = assemble(*tables(), SETTINGS)
    assert left_out == {"no_description": 1, "no_instructions": 1, "unknown_image": 1}
    assert rows.num_rows + sum(left_out.values()) == 40 and rows.schema == TRIPLETS


def test_the_query_image_is_the_first_hard_negative_and_licences_are_joined():
    rows = assemble(*tables(), SETTINGS)[0].to_pylist()
    for row in rows:
        i = row["query_id"][1:]
        assert row["hard_negatives"] == [f"q{i}", f"n{i}"]
        assert row["licence"] == ("CC0" if int(i) % 2 else "CC0 | unknown")


def test_the_split_depends_on_the_query_image_alone():
    few, many = (
        dict(zip(t["query_id"].to_pylist(), t["split"].to_pylist(), strict=True))
        for t in (assemble(*tables(20), SETTINGS)[0], assemble(*tables(40), SETTINGS)[0])
    )
    assert few.items() <= many.items() and set(many.values()) == {"train", "test"}
    assert 0.25 < sum(split_of(str(i), SETTINGS) == "test" for i in range(2000)) / 2000 < 0.35


def test_a_contact_sheet_shows_any_picture_and_any_text():
    def png(mode: str, size: tuple[int, int]) -> bytes:
        out = io.BytesIO()
        Image.new(mode, size).save(out, "PNG")
        return out.getvalue()

    rows = [
        {"query_id": "a", "target_id": "b", "texts": ["短い <b>", "x" * 500, ""]},
        {"query_id": "b", "target_id": "a", "texts": []},
    ]
    sheet = Image.open(io.BytesIO(contact_sheet(rows, lambda ids: {"a": png("RGBA", (300, 2)), "b": png("I;16", (1, 1))})))
    assert sheet.format == "JPEG" and sheet.height > 200
