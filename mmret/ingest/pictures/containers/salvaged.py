"""What becomes of a picture's file that a decoder stumbled over: the same pixels in a file without the rest."""

from __future__ import annotations

from dataclasses import dataclass

LARGE = 2**20
"""Bytes of one text or profile, unpacked, beyond which Pillow refuses the file; nothing larger is ever unpacked here."""


@dataclass(frozen=True)
class Salvaged:
    """A file with the same pixels and nothing that a decoder stumbles over.

    ``remarks``: what is odd about the original. ``probes``: files that decode to other pixels than ``data`` if some are missing.
    ``frames``: of an animation of which only the first is left, or 1.
    """

    data: bytes
    remarks: tuple[str, ...]
    probes: tuple[bytes, ...] = ()
    frames: int = 1
