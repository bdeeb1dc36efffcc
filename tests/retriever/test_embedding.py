"""Invariants: every row of the source is in the output, in its order, with the vector `encode` gives or a reason; a run cut
short goes on with the part it was at and ends with the same bytes of vectors; nothing stands at `out` until it is whole."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from mmret.cli import app
from mmret.errors import UserError
from mmret.quantise import from_int8, shorten, to_binary
from mmret.retriever import embed as embedding
from mmret.retriever import embed_parts
from mmret.retriever.embed import EmbedOptions, embed
from mmret.retriever.models.clip import ClipRetriever

PARTS = EmbedOptions(batch_size=3, part_rows=5, device="cpu")


@pytest.fixture
def folder(tmp_path, pictures):
    """Eleven pictures with captions, one of them no picture, one without a caption."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    lines = []
    for n, data in enumerate(list(pictures.values())[:11]):
        (folder / f"{n:02d}.png").write_bytes(b"not a picture" if n == 6 else data)
        lines.append({"image": f"{n:02d}.png", "caption": "" if n == 8 else f"make it {n} times larger"})
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def vectors(table: pa.Table) -> np.ndarray:
    rows = table["vector"].to_pylist()
    return np.array([[np.nan] * 16 if row is None else row for row in rows], np.float32)


def test_every_row_is_there_with_encodes_vector_or_a_reason(folder, clip_folder, tmp_path):
    counts = embed([str(folder)], clip_folder, tmp_path / "out", PARTS)
    table = pq.read_table(tmp_path / "out")
    assert table["path"].to_pylist() == [f"{n:02d}.png" for n in range(11)]
    assert counts["rows"] == 11 and counts["embedded"] == 10 and counts["kept"] == 0
    assert [n for n, r in enumerate(table["reason"].to_pylist()) if r] == [6]
    good = [n for n in range(11) if n != 6]
    expected = ClipRetriever.load(clip_folder, "cpu").encode([folder / f"{n:02d}.png" for n in good])
    found = vectors(table)
    np.testing.assert_allclose(found[good], expected, atol=1e-6)
    assert np.isnan(found[6]).all()


@pytest.mark.parametrize("what", ["text", "composed"])
def test_texts_and_both_are_choices(folder, clip_folder, tmp_path, what):
    source = str(folder / "captions.jsonl")
    embed([source], clip_folder, tmp_path / "out", EmbedOptions(what, batch_size=4, part_rows=4, device="cpu"))
    table = pq.read_table(tmp_path / "out")
    lost = [n for n, r in enumerate(table["reason"].to_pylist()) if r]
    assert lost == ([8] if what == "text" else [6, 8])
    good = [n for n in range(11) if n not in lost]
    texts = [f"make it {n} times larger" for n in good]
    images = [folder / f"{n:02d}.png" for n in good] if what == "composed" else None
    expected = ClipRetriever.load(clip_folder, "cpu").encode(images, texts)
    np.testing.assert_allclose(vectors(table)[good], expected, atol=1e-6)


def test_a_run_cut_short_goes_on_and_ends_the_same(folder, clip_folder, tmp_path, monkeypatch):
    embed([str(folder)], clip_folder, tmp_path / "whole", PARTS)
    real = embed_parts.embed_part
    calls = []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt("killed here")
        return real(*arguments)

    monkeypatch.setattr(embed_parts, "embed_part", dies)
    with pytest.raises(KeyboardInterrupt, match="killed here"):
        embed([str(folder)], clip_folder, tmp_path / "out", PARTS)
    assert not (tmp_path / "out").exists()
    calls.clear()
    monkeypatch.setattr(embed_parts, "embed_part", lambda *a: calls.append(1) or real(*a))
    counts = embed([str(folder)], clip_folder, tmp_path / "out", PARTS)
    assert len(calls) == 2 and counts["kept"] == 5 and counts["rows"] == 11
    assert pq.read_table(tmp_path / "out").equals(pq.read_table(tmp_path / "whole"))
    assert not list(tmp_path.glob("*.work"))


def test_parts_of_other_settings_or_rows_are_not_kept(folder, clip_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "_finish", lambda *a: None)  # as if it died before the last step
    embed([str(folder)], clip_folder, tmp_path / "out", PARTS)
    assert embed([str(folder)], clip_folder, tmp_path / "out", PARTS)["kept"] == 11
    text = (folder / "captions.jsonl").read_text()
    (folder / "captions.jsonl").write_text(text.replace("make it 7 times", "make it 70 times"))
    assert embed([str(folder)], clip_folder, tmp_path / "out", PARTS)["kept"] == 6
    assert embed([str(folder)], clip_folder, tmp_path / "out", EmbedOptions("composed", part_rows=5))["kept"] == 0


def test_parquet_that_holds_pictures_and_lance_out(pictures, clip_folder, tmp_path):
    import lance

    rows = [{"image": {"bytes": data, "path": f"{n}.png"}, "text": f"no hat {n}"} for n, data in enumerate(pictures.values())]
    rows.append({"image": None, "text": "lost"})
    source = tmp_path / "held.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source)
    counts = embed(
        [str(source)], clip_folder, tmp_path / "out.lance", EmbedOptions("composed", format="lance", part_rows=10, device="cpu")
    )
    table = lance.dataset(tmp_path / "out.lance").to_table()
    assert counts["no_picture"] == 1 and table.num_rows == 25
    expected = ClipRetriever.load(clip_folder, "cpu").encode(list(pictures.values()), [f"no hat {n}" for n in range(24)])
    np.testing.assert_allclose(vectors(table)[:24], expected, atol=1e-6)


def test_truncated_texts_are_counted_over_a_resumption(clip_folder, tmp_path, monkeypatch):
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": "green " * (200 if n % 2 else 1)}) + "\n" for n in range(7)))
    options = EmbedOptions("text", part_rows=3, device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(embedding, "_finish", lambda *a: None)
        assert embed([str(source)], clip_folder, tmp_path / "out", options)["truncated"] == 3
    assert embed([str(source)], clip_folder, tmp_path / "out", options) == {"rows": 7, "embedded": 7, "truncated": 3, "kept": 7}


@pytest.mark.parametrize("format_", ["parquet", "lance"])
@pytest.mark.parametrize("precision, dimensions", [("float32", 5), ("float16", None), ("int8", 5), ("binary", 11)])
def test_shorter_and_coarser_vectors_are_those_of_the_whole_ones(folder, clip_folder, tmp_path, format_, precision, dimensions):
    import lance

    options = replace(PARTS, format=format_, precision=precision, dimensions=dimensions)
    assert embed([str(folder)], clip_folder, tmp_path / "out", options)["embedded"] == 10
    embed([str(folder)], clip_folder, tmp_path / "whole", PARTS)
    there = [n for n in range(11) if n != 6]
    whole = shorten(vectors(pq.read_table(tmp_path / "whole"))[there], dimensions or 16)
    table = pq.read_table(tmp_path / "out") if format_ == "parquet" else lance.dataset(tmp_path / "out").to_table()
    kind = table.schema.field("vector").type
    assert pa.types.is_fixed_size_list(kind) and table["vector"][6].as_py() is None
    found = np.array([table["vector"][n].as_py() for n in there])
    if precision == "int8":
        assert (
            kind.value_type == pa.int8() and table.schema.field("scale").type == pa.float32() and table["scale"][6].as_py() is None
        )
        scales = np.array([table["scale"][n].as_py() for n in there], np.float32)
        assert (np.abs(from_int8(found, scales) - whole) <= scales[:, None] * 0.501).all()
    elif precision == "binary":
        assert kind == pa.list_(pa.uint8(), 2) and (found == to_binary(whole)).all() and "scale" not in table.column_names
    else:
        assert kind.value_type == (pa.float16() if precision == "float16" else pa.float32())
        np.testing.assert_allclose(found, whole, atol=1e-3 if precision == "float16" else 0)


def test_what_decides_on_the_vectors_decides_which_parts_are_kept_and_nothing_else_does():
    plain = EmbedOptions()
    asked = {"what", "format", "query", "batch_size", "part_rows", "device", "dtype"}
    assert plain.decisive().keys() == asked, "a run that an older version began goes on"
    assert replace(plain, devices=("cuda:0", "cuda:1"), processes=4, batch_size=3, device="cpu").decisive() == plain.decisive()
    others = [replace(plain, dimensions=5), replace(plain, precision="int8"), replace(plain, dimensions=5, precision="int8")]
    assert all(a.decisive() != b.decisive() for at, a in enumerate([plain, *others]) for b in others[at:])


def test_more_dimensions_than_the_model_has_are_refused_before_anything_is_embedded(folder, clip_folder, tmp_path):
    with pytest.raises(UserError, match="have 16 dimensions: 17 cannot be kept, give 1 to 16"):
        embed([str(folder)], clip_folder, tmp_path / "out", replace(PARTS, dimensions=17))
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("out.work/part*"))


def test_what_exists_is_not_written_over(folder, clip_folder, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists already"):
        embed([str(folder)], clip_folder, tmp_path / "out", PARTS)


def test_the_command_writes_what_its_words_say_and_notes_lengths_that_were_not_trained(folder, clip_folder, tmp_path):
    def embedded(out: str, checkpoint: Path, *words: str) -> Result:
        given = ["embed", str(folder), "--checkpoint", str(checkpoint), "--out", str(tmp_path / out), "--device", "cpu", *words]
        return CliRunner().invoke(app, given, catch_exceptions=False)

    short = ("--dimensions", "5", "--precision", "int8", "--json")
    said = embedded("a", clip_folder, *short)
    assert said.exit_code == 0 and json.loads(said.stdout)["embedded"] == 10 and "note:" not in said.stderr
    assert pq.read_schema(next((tmp_path / "a").iterdir())).field("vector").type == pa.list_(pa.int8(), 5)
    trained = shutil.copytree(clip_folder, tmp_path / "trained")
    for dimensions, note in (
        ([], "for whole vectors alone: its first 5 dimensions"),
        ([4, 8], "for 4, 8: its first 5"),
        ([5], None),
    ):
        (trained / "recipe.json").write_text(json.dumps({"recipe": {"matryoshka": dimensions}}))
        said = embedded(f"b{len(dimensions)}", trained, *short)
        assert json.loads(said.stdout)["rows"] == 11
        assert (note in said.stderr) if note else ("note:" not in said.stderr)
    with pytest.raises(UserError, match="--device or --devices, not both"):
        embedded("c", clip_folder, "--devices", "cpu,cpu")
