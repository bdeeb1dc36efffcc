"""Opens the sources of captioned pictures that ``corpus.sources`` names, and checks them before anything is read.

A source is a folder with a manifest, a manifest file, a folder with side-car captions or tars, a WebDataset tar, or
``shapes:<n>?seed=<s>``, or a table of addresses; files may lie in an object store (``s3://bucket/prefix``). Listing reads names,
sizes, times and captions, never a picture; that of addresses fetches them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from mmret.errors import UserError
from mmret.hashing import content_id
from mmret.ingest.folders.folder import Folder
from mmret.ingest.folders.folder_source import FolderSource
from mmret.ingest.folders.manifest_source import ManifestSource
from mmret.ingest.folders.webdataset import TarSource
from mmret.ingest.object_store.lost import ending_when_lost
from mmret.ingest.object_store.path import ObjectPath, object_path
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.remarks import Remarks
from mmret.ingest.rows import Reader, Row, Source, encodable, to_json
from mmret.ingest.shapes import caption, parse_source, scene, scene_of_path, scene_path
from mmret.ingest.tables.manifest_files import is_table, recognise
from mmret.ingest.tables.picture_table import PICTURE_TABLE_SUFFIXES, PictureTable
from mmret.ingest.web.url_list import UrlList, Withheld, pictures_folder
from mmret.lake.configuration import URL_LIST
from mmret.settings import DownloadSettings
from mmret.storage import is_object_address

ACCEPTED = (
    "a folder of pictures with a manifest (captions.jsonl, metadata.csv, ...: a column image and a column "
    "caption) or with a .txt caption beside each picture, a manifest file (JSON lines, CSV or Parquet), "
    "a WebDataset .tar or a folder of them, all of them also below s3://, gs:// or az://, urls:<table of addresses>, or "
    "shapes:<n>?seed=<s>"
)
_SAMPLE_ROWS = 1000  # rows of a manifest that must all be missing before the source itself is called wrong


class ShapesSource:
    """The built-in corpus. A scene has the same path whatever the size of the corpus, so it is the same row."""

    def __init__(self, text: str):
        self._images, self._seed = parse_source(text)
        self.root = f"shapes:{self._images}?seed={self._seed}"
        self.remarks = Remarks()

    def rows(self) -> Iterator[Row]:
        for i in range(self._images):
            drawn = scene(self._seed, i)
            yield Row(scene_path(self._seed, i), caption(drawn), "CC0-1.0", "shapes", to_json(drawn.attributes))

    def open(self, path: str) -> tuple[BinaryIO, int]:
        from mmret.ingest.shapes_render import render

        data = render(scene_of_path(path))
        return io.BytesIO(data), len(data)


class _TableReader:
    """Reads the rows of a table that holds pictures, and the files of one that names files too and was sealed by these."""

    def __init__(self, path: Path | ObjectPath):
        self._table = PictureTable(path)
        self._folder = Folder(path.parent)

    def open(self, path: str) -> tuple[BinaryIO, int]:
        return (self._table if path.isascii() and path.isdigit() else self._folder).open(path)


def open_sources(texts: Iterable[str]) -> list[Source]:
    """The sources in the order given, each once.

    Raises UserError for a path that does not exist, holds no picture, or has a manifest without the columns needed.
    """
    sources = [open_source(text) for text in texts]
    return list({source.root: source for source in sources}.values())


def open_source(text: str, download: DownloadSettings | None = None, withheld: Withheld | None = None) -> Source:
    """One source, checked as far as its first rows. ``download``: how the pictures of a list of addresses are fetched;
    ``withheld``: those of them that are not.

    Raises UserError as :func:`open_sources` does. Nothing is fetched before its rows are asked for.
    """
    if text.startswith("shapes:"):
        return ShapesSource(text)
    if text.startswith(URL_LIST):
        return UrlList(text, download or DownloadSettings(), withheld)
    if is_object_address(text):
        return _open_remote(text)
    path = Path(text).expanduser().absolute()
    if not encodable(str(path)):
        raise UserError(f"{path!r} is not UTF-8 and cannot be recorded: rename it")
    if not path.exists():
        hint = "no path is read as a pattern, give the folder that holds the files; " if set("*?[{") & set(text) else ""
        raise UserError(f"there is nothing at {path}: {hint}expected {ACCEPTED}")
    try:
        source = FolderSource(path) if path.is_dir() else _file(path)
        _refuse_empty(source, list(islice(source.rows(), _SAMPLE_ROWS)))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    return source


def _open_remote(text: str) -> Source:
    with ending_when_lost():
        path = object_path(text)
        if not path.key and not path.is_dir_with_objects():
            raise UserError(f"there is nothing at {path}: expected {ACCEPTED}")
        source = _file(path) if path.key else FolderSource(path)
        _refuse_empty(source, list(islice(source.rows(), _SAMPLE_ROWS)))
    return source


def open_reader(root: str) -> Reader:
    """A reader of the pictures of sealed rows with this ``root``; nothing is listed or checked."""
    if root.startswith("shapes:"):
        return ShapesSource(root)
    if root.startswith(URL_LIST):
        return Folder(pictures_folder(root))
    path: Path | ObjectPath = Path(root)
    if is_object_address(root):
        with ending_when_lost():
            path = object_path(root)
        if not path.key:
            return Folder(path)
    if path.suffix.lower() == ".tar" and path.is_file():
        return TarSource(path)
    if path.suffix.lower() in PICTURE_TABLE_SUFFIXES and path.is_file():
        with suppress(UserError):  # a manifest
            return _TableReader(path)
    return Folder(path.parent if isinstance(path, ObjectPath) or not path.is_dir() else path)


def read_as_sealed(reader: Reader, row: dict[str, Any]) -> bytes:
    """Contents of the file of ``row`` of a manifest. Raises Unreadable, with ``changed_on_disk`` where it is another by now."""
    stream, size = reader.open(row["path"])
    with stream:
        data = stream.read(size) if row["size"] in (None, size) else b""
    if content_id(data) != row["image_id"]:
        raise Unreadable("changed_on_disk", "the file is not the one that was sealed; seal again to take the new one")
    return data


def _file(path: Path | ObjectPath) -> Source:
    if path.suffix.lower() == ".tar":
        return TarSource(path)
    if is_table(path.name):
        return open_manifest(path)
    name = path.name.lower()
    hint = "decompress it first; " if name.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")) else ""
    hint = "unpack it first; " if name.endswith((".zip", ".rar", ".7z")) else hint
    raise UserError(f"{path} cannot be read: {hint}expected {ACCEPTED}")


def open_manifest(path: Path | ObjectPath) -> ManifestSource | PictureTable:
    """A table of pictures, or one that holds them, as a source. Raises UserError with the reason why it is neither."""
    manifest = recognise(path)
    if isinstance(manifest, str):
        raise UserError(f"{path} {manifest}")
    if path.parent not in (manifest.folder, *manifest.folder.parents):
        raise UserError(f"{path}: its pictures lie in {manifest.folder}: give {path.parent.parent} instead, which has both")
    return PictureTable(path) if manifest.embedded else ManifestSource(manifest)


def _refuse_empty(source: Source, first: list[Row]) -> None:
    path = source.root
    if not first:
        raise UserError(f"{path} holds no picture{_also_seen(source)}: expected {ACCEPTED}")
    if first[0].reason == "damaged_tar" and len(first) == 1 and isinstance(source, TarSource):
        raise UserError(f"{path} is not an uncompressed tar: {first[0].detail}")
    if all(row.reason == "missing_file" for row in first):
        raise UserError(
            f"{path}: none of the first {len(first)} pictures its manifest names exists, beginning with "
            f"{first[0].path:.200} ({first[0].detail}); paths count from the manifest's folder"
        )


def _also_seen(source: Source) -> str:
    """What was noticed where no picture was found: the likeliest reason for it."""
    seen = [f"{remark.path or ''} {remark.detail}".strip() for remark in source.remarks if remark.detail]
    return f" ({'; '.join(seen[:4])})" if seen else ""
