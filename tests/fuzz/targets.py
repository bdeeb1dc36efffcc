"""What is fuzzed, each with what must hold whatever the bytes: no error but the two that are meant to be seen, nothing lost, the
same answer again, and bounds of time and memory."""

from __future__ import annotations

import io
import json
import resource
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from PIL import Image

from mmret.annotate.parse import parse
from mmret.annotate.protocol import Answer, Request
from mmret.benchmarks.score import score_file
from mmret.errors import UserError
from mmret.ingest.folders.webdataset import TarSource
from mmret.ingest.pictures.decode import Unreadable, inspect, open_rgb
from mmret.ingest.seal import seal
from mmret.ingest.sources import open_reader, open_source
from mmret.ingest.tables.manifest_files import recognise
from mmret.lake import Lake
from mmret.schemas import CORPUS_MANIFEST
from mmret.settings import CorpusSettings, IngestSettings
from tests.benchmarks.layouts import LAYOUTS
from tests.fuzz.mutations import nearly, with_checksums
from tests.ingest.files import animated, encoded, jpeg, picture, png, rotated_jpeg

SECONDS = 10
"""Longest that one case may compute; a busy machine does not count."""
MEMORY = 768 * 2**20
"""Most by which one case may raise the process's peak of memory, in bytes."""
LIMITS = IngestSettings(max_pixels=10**6, max_bytes=10**7)


class Target(NamedTuple):
    """``cases`` draws them; ``check(case)`` raises where something does not hold; ``examples``: how many ``make test`` tries."""

    cases: st.SearchStrategy
    check: Callable[[Any], None]
    examples: int


class Bounded:
    """A block that must end in time and not take much memory."""

    def __enter__(self) -> None:
        self.begun, self.peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            taken = time.process_time() - self.begun
            grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self.peak)
            assert taken < SECONDS, f"took {taken:.1f} s"
            assert grown < MEMORY, f"took {grown / 2**20:.0f} MiB"


@cache
def _folder() -> Path:
    """A folder of this process for the file under test."""
    return Path(tempfile.mkdtemp(prefix="mmret-fuzz-"))


def _fresh(name: str) -> Path:
    folder = _folder() / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def case_file() -> Path:
    """Where the case that is tried is written, for one that ends the process."""
    return _folder() / "case"


def remove_folder() -> None:
    """Delete what the targets wrote."""
    shutil.rmtree(_folder(), ignore_errors=True)
    _folder.cache_clear()


# -- pictures -----------------------------------------------------------------------------------------------------------


def _pictures() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a text"
    kinds = ("PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "AVIF", "PPM", "ICO")
    made = [encoded(picture(), kind) for kind in kinds]
    made += [animated(kind) for kind in ("GIF", "PNG", "WEBP", "AVIF")]
    made += [jpeg(), jpeg(progressive=True), jpeg(exif=exif), jpeg(restart_marker_rows=1), rotated_jpeg()]
    made += [encoded(picture().convert(mode), "TIFF", compression="tiff_lzw") for mode in ("RGB", "CMYK", "I;16", "1")]
    made += [encoded(picture().convert(mode)) for mode in ("P", "LA", "I;16", "RGBA")]
    made += [encoded(picture().convert("CMYK"), "JPEG"), encoded(picture(), "JPEG2000", tile_size=(16, 16))]
    made += [encoded(picture(), "MPO", save_all=True, append_images=[picture(1)])]
    made += [p.read_bytes() for p in sorted((Path(__file__).parents[1] / "ingest" / "pictures").glob("*.heic"))]
    return made


def check_picture(data: bytes) -> None:
    """Decoded or refused with a reason and words, twice alike; what was decoded is opened at the same size."""
    outcomes = []
    with Bounded():
        for _ in range(2):
            try:
                outcomes.append(inspect(data, LIMITS))
            except Unreadable as why:
                assert why.reason and why.detail
                outcomes.append((why.reason, why.detail))
    assert outcomes[0] == outcomes[1]
    if not isinstance(outcomes[0], tuple):
        seen = outcomes[0]
        assert seen.width * seen.height <= LIMITS.max_pixels
        opened = open_rgb(data, LIMITS)
        assert (opened.mode, opened.size) == ("RGB", (seen.width, seen.height))
        assert open_rgb(data, LIMITS, draft=(8, 8)).mode == "RGB"


# -- sources ------------------------------------------------------------------------------------------------------------

_CAPTIONS = ("a red dress", 'a "quoted" one', "with, commas; and | bars", "naïve café", "two\nlines", "42", "")
_NAMES = ("a.png", "b.jpg", "c.webp", "sub/d.png", "missing.png", "../out.png", "a.png")


def _rows(separator: str, header: bool = True) -> bytes:
    lines = ["image" + separator + "caption"] if header else []
    for name, text in zip(_NAMES, _CAPTIONS, strict=True):
        quoted = '"' + text.replace('"', '""') + '"' if separator == "," else text.replace("\n", " ")
        lines.append(f"{name}{separator}{quoted}")
    return "\n".join(lines).encode() + b"\n"


def _json_rows() -> list[dict[str, Any]]:
    return [{"image": n, "caption": c, "licence": "CC0"} for n, c in zip(_NAMES, _CAPTIONS, strict=True)]


def _columnar(kind: str) -> bytes:
    out = io.BytesIO()
    embedded = [{"bytes": png(n), "path": f"{n}.png"} for n in range(3)]
    tables = {
        "names": pa.Table.from_pylist(_json_rows()),
        "embedded": pa.table({"image": embedded, "text": ["a", "b", None]}),
        "binary": pa.table({"jpg": [jpeg(1), b"", None], "caption": [["a", "b"], [], None]}),
    }
    if kind == "arrow":
        with pa.ipc.new_stream(out, tables["embedded"].schema) as writer:
            writer.write_table(tables["embedded"])
    else:
        pq.write_table(tables[kind], out)
    return out.getvalue()


def _tables() -> dict[str, list[bytes]]:
    rows = _json_rows()
    coco = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(_NAMES)],
        "annotations": [{"image_id": n % 7, "caption": _CAPTIONS[n % 7], "id": n} for n in range(9)],
    }
    karpathy = {
        "images": [{"filename": n, "sentences": [{"raw": c}, {"raw": "b"}]} for n, c in zip(_NAMES, _CAPTIONS, strict=True)]
    }
    separated = [_rows(","), _rows("\t"), _rows(";"), _rows("|"), _rows(",", False), _rows("\t", False)]
    separated += [_rows(",").decode().encode("utf-16"), _rows("\t").decode().encode("cp1252"), b"img#0\ta dog\nimg#1\ta cat\n"]
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    return {
        ".csv": separated,
        ".tsv": separated,
        ".txt": separated,
        ".jsonl": [lines, lines.replace(b"image", b"file_name")],
        ".json": [json.dumps(value).encode() for value in (rows, coco, karpathy, {"data": rows})],
        ".parquet": [_columnar(kind) for kind in ("names", "embedded", "binary")],
        ".arrow": [_columnar("arrow")],
    }


def _pictures_into(folder: Path) -> None:
    (folder / "sub").mkdir(exist_ok=True)
    for name, data in (("a.png", png(1)), ("b.jpg", jpeg(2)), ("c.webp", encoded(picture(3), "WEBP")), ("sub/d.png", png(4))):
        (folder / name).write_bytes(data)


def _listed(source: Any) -> tuple[list, list]:
    """Rows and remarks of one listing; every row has a reason, or its file can be opened or says why not."""
    rows = list(source.rows())
    remarks = [(r.remark, r.count, r.path, r.detail) for r in source.remarks]
    reader = open_reader(source.root)
    for row in rows[:50]:
        if row.reason:
            assert row.detail is not None
            continue
        for opened in (source, reader):
            try:
                stream, size = opened.open(row.path)
            except Unreadable as why:
                assert why.reason
            else:
                with stream:
                    assert len(stream.read(size + 1)) >= 0
    return rows, remarks


def check_source(path: Path) -> tuple[int, int]:
    """Lists the source at ``path`` twice alike and seals every row of it; returns the number of rows and what was remarked."""
    try:
        source = open_source(str(path))
    except UserError as error:
        assert str(error) and "Traceback" not in str(error)
        return 0, 0
    try:
        first = _listed(source)
        assert first == _listed(source) == _listed(open_source(str(path)))
        rows, remarks = first
        lake = Lake(_fresh("lake"))
        sealed = [row for _, table in seal(lake, CorpusSettings(sources=(str(path),)), LIMITS) for row in table.to_pylist()]
        pa.Table.from_pylist(sealed, schema=CORPUS_MANIFEST)
        assert len(sealed) == len(rows), f"{len(rows)} rows listed, {len(sealed)} sealed"
    except UserError as error:
        assert str(error)
        return 0, 0
    return len(rows), sum(count for _, count, _, _ in remarks)


def check_manifest(case: tuple[str, bytes]) -> None:
    """A table is a manifest, or none in one sentence; every record of it is a row or a remark."""
    suffix, data = case
    folder = _fresh("manifest")
    _pictures_into(folder)
    path = folder / f"captions{suffix}"
    path.write_bytes(data)
    with Bounded():
        found = recognise(path, within=folder)
        if isinstance(found, str):
            assert found.strip() and "Traceback" not in found
        elif not found.embedded:
            try:
                records = list(found.records())
            except UserError:
                records = []
            for number, record in records:
                assert isinstance(number, int | str) and isinstance(record, dict | str)
            rows, remarked = check_source(path)
            assert rows + remarked >= len(records) or not rows
        check_source(path)
        check_source(folder)


def _tars() -> list[bytes]:
    made = []
    for style in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=style) as archive:
            long = "ü" * 30 + "/" + "n" * 90 if style != tarfile.USTAR_FORMAT else "n" * 90
            members = {
                "000.png": png(1),
                "000.txt": b"a caption",
                "./001.jpg": jpeg(2),
                "001.caption.txt": b"one\ntwo",
                "001.url.txt": b"https://example.org",
                "002.json": b'{"caption": "c", "license": "x"}',
                "002.webp": encoded(picture(3), "WEBP"),
                f"{long}.png": png(5),
                "../out.png": png(6),
                "empty.png": b"",
            }
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.LNKTYPE, "000.png"
            archive.addfile(link)
        made.append(out.getvalue())
    return [*made, made[0] + made[1], made[0] + b"rest" * 200]


def check_tar(data: bytes) -> None:
    """A tar is listed twice alike, alone and in a folder, and each row is read or refused; nothing is read outside."""
    folder = _fresh("tar")
    path = folder / "pictures.tar"
    path.write_bytes(data)
    with Bounded():
        first, second = (list(TarSource(path).rows()) for _ in range(2))
        assert first == second
        for row in first:
            assert row.reason or (row.size is not None and row.size >= 0)
        check_source(path)
        check_source(folder)


def check_side_cars(case: tuple[list[tuple[str, bytes]], bytes]) -> None:
    """Every picture of a folder is a row whatever lies beside it; texts are captions or remarks."""
    texts, data = case
    folder = _fresh("side-cars")
    _pictures_into(folder)
    for name, text in texts:
        (folder / name).write_bytes(text)
    (folder / "e.png").write_bytes(data)
    with Bounded():
        rows, _ = check_source(folder)
    assert rows >= 5 or rows == 0  # 0: none of the pictures can be used, which is said


# -- answers and benchmarks ---------------------------------------------------------------------------------------------

_ANSWERS = [
    json.dumps(["make it red", "turn it red", "paint it in red"]),
    json.dumps({"description": "both are dresses", "instructions": ["make it red", "turn it red", "paint it red"]}),
    "1. make it red\n2. turn it red\n3. paint it in red",
    '<think>a long thought</think>\n```json\n["a", "b", \'c\',]\n```',
    '{"fidelity": 4, "discretion": 5}',
    "Both pictures show a dress; the second is red.",
    "I am sorry, but I cannot help with that.",
]


def check_answer(case: tuple[bytes, str, str, str | None]) -> None:
    """An answer becomes texts, or a reason, alike each time."""
    raw, kind, part, language = case
    answer = Answer(raw.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode())
    request = Request(kind, "p", "q", "t", "a red dress", "a blue dress", "both are dresses")
    with Bounded():
        parsed, again = (parse(request, answer, part, language) for _ in range(2))
    assert parsed == again
    assert bool(parsed.reason) or parsed.texts or parsed.scores
    assert all(text.strip() for text in parsed.texts)


@cache
def _benchmark_files() -> dict[str, tuple[Path, dict[str, bytes], bytes]]:
    """By benchmark: the path of its annotations, their files, and a file of predictions."""
    made = {}
    for name, (build, predictions) in LAYOUTS.items():
        root = _folder() / "layouts" / name
        path = Path(build(root))
        files = {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
        made[name] = (path.relative_to(root), files, json.dumps(predictions()).encode())
    return made


@st.composite
def _benchmark_cases(draw: st.DrawFn) -> tuple[str, str | None, bytes]:
    """(benchmark, file of its annotations that is replaced or None for the predictions, the bytes)."""
    name = draw(st.sampled_from(sorted(LAYOUTS)))
    _, files, predictions = _benchmark_files()[name]
    texts = [f for f, data in files.items() if len(data) < 10**6 and f.endswith((".json", ".jsonl", ".csv", ".txt", ".parquet"))]
    which = draw(st.sampled_from([None, *texts]))
    return name, which, draw(nearly([predictions if which is None else files[which]]))


def check_benchmark(case: tuple[str, str | None, bytes]) -> None:
    """Annotations and predictions are scored with finite figures, or refused in a message."""
    name, which, data = case
    annotations, files, predictions = _benchmark_files()[name]
    root = _fresh("benchmark")
    for file, content in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(data if file == which else content)
    path = root / "predictions-of-mine.json"
    path.write_bytes(data if which is None else predictions)
    with Bounded():
        try:
            json.dumps(score_file(name, root / annotations, path).values, allow_nan=False)
        except UserError as error:
            assert str(error) and "Traceback" not in str(error)


_TABLES = _tables()
_SIDE_CARS = [
    b"a caption\n",
    "zwei Wörter".encode("cp1252"),
    "drei".encode("utf-16"),
    b'{"caption": "c"}',
    b"one\ntwo\n",
    b"https://a.b/c.png",
]
_SIDE_CAR_NAMES = (
    "a.txt",
    "a.png.txt",
    "b.caption",
    "b.TXT",
    "c.json",
    "sub/d.txt",
    "e.txt",
    "notes.md",
    "no.suffix",
    "captions.csv",
)

TARGETS: dict[str, Target] = {
    "pictures": Target(nearly(_pictures()), check_picture, 400),
    "manifests": Target(
        st.sampled_from(sorted(_TABLES)).flatmap(lambda suffix: st.tuples(st.just(suffix), nearly(_TABLES[suffix]))),
        check_manifest,
        60,
    ),
    "tars": Target(st.one_of(nearly(_tars()), nearly(_tars()).map(with_checksums)), check_tar, 60),
    "side_cars": Target(
        st.tuples(
            st.lists(st.tuples(st.sampled_from(_SIDE_CAR_NAMES), nearly(_SIDE_CARS)), max_size=5, unique_by=lambda pair: pair[0]),
            nearly([png(9)]),
        ),
        check_side_cars,
        60,
    ),
    "answers": Target(
        st.tuples(
            nearly([a.encode() for a in _ANSWERS]),
            st.sampled_from(("describe", "instruct", "both")),
            st.sampled_from(("description", "instructions", "scores")),
            st.sampled_from((None, "English", "German")),
        ),
        check_answer,
        300,
    ),
    "benchmarks": Target(_benchmark_cases(), check_benchmark, 100),
}
