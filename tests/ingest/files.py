"""Real picture files for tests: good ones in every mode, and the nasty ones of a crawled corpus."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def picture(seed: int = 0, size: tuple[int, int] = (24, 16)) -> Image.Image:
    """Noise, so that its files are large enough to be cut anywhere and differ from those of another seed."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def png(seed: int = 0, size: tuple[int, int] = (24, 16)) -> bytes:
    return encoded(picture(seed, size))


def jpeg(seed: int = 0, size: tuple[int, int] = (24, 16), **options: object) -> bytes:
    return encoded(picture(seed, size), "JPEG", quality=95, **options)


def bomb_png(side: int = 60_000) -> bytes:
    """A PNG of a few bytes whose header promises ``side`` x ``side`` pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def animated(kind: str) -> bytes:
    """Two frames, the first all red, the second all blue."""
    first, second = Image.new("RGB", (20, 10), (255, 0, 0)), Image.new("RGB", (20, 10), (0, 0, 255))
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(first, kind, save_all=True, append_images=[second], duration=100, **options)


def rotated_jpeg() -> bytes:
    """Stored 40 x 20 with the left half red; EXIF says to turn it clockwise, so red is on top of a 20 x 40 picture."""
    image = Image.new("RGB", (40, 20), "blue")
    image.paste((255, 0, 0), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return encoded(image, "JPEG", quality=95, exif=exif)


def write(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def jsonl(*records: Mapping[str, object]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def captioned(folder: Path, files: Mapping[str, bytes], caption: str = "a picture called {}") -> Path:
    """``files`` with a captions.jsonl that names them all."""
    write(folder, files)
    return write(folder, {"captions.jsonl": jsonl(*({"image": n, "caption": caption.format(n)} for n in files))})


def tar(path: Path, members: Mapping[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
