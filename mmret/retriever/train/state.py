"""Where a run keeps what it has: states a killed run continues from, and the finished folder that replaces an older one whole.

A state holds everything a step depends on that is not a function of the step number: weights under training, optimiser, RNG. It
lies where the lake lies, is written whole or not at all, and the last two are kept, so a crash at any moment costs at most
``checkpoint_every`` steps, and another machine may go on. Cost, in an object store: sending a state, three times the trained
weights, while the step waits.
"""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmret.atomic import remove_abandoned, write_text
from mmret.errors import UserError
from mmret.retriever.models.checkpoint import RECORD
from mmret.storage import Storage, open_storage

MAX_STATES = 2


@dataclass(frozen=True)
class Place:
    """Where a checkpoint will lie, ``key`` in ``storage``; what is under way lies beside it, in ``<key>.work``.

    >>> Place.of(Path("checkpoints/base")).work
    PosixPath('/home/me/checkpoints/base.work')
    """

    storage: Storage
    key: str

    @classmethod
    def of(cls, out: Path | Place) -> Place:
        """The place of a local folder; of a place itself that."""
        if isinstance(out, Place):
            return out
        return cls(open_storage(out.parent), out.name)

    @property
    def shown(self) -> str:
        """As a person finds it."""
        return self.storage.shown(self.key)

    @property
    def work(self) -> Path:
        """A folder of this machine for what only the run itself reads: events, frozen features."""
        return self.storage.scratch / f"{self.key}.work"

    @property
    def folder(self) -> Path:
        """The checkpoint on this machine: the folder itself, or a copy. One that does not exist where there is no checkpoint."""
        if self.storage.has_folder(self.key):
            return self.storage.local_folder(self.key)
        return self.storage.scratch / self.key

    def publish(self) -> AbstractContextManager[Path]:
        """An empty folder that becomes the checkpoint."""
        return self.storage.replacing_folder(self.key)

    def add(self, name: str, text: str) -> None:
        """Write one more file into the checkpoint that is there."""
        if self.storage.is_local:
            write_text(self.folder / name, text)
            return
        with self.publish() as aside:  # a folder of an object store is replaced as a whole
            shutil.copytree(self.folder, aside, dirs_exist_ok=True)
            (aside / name).write_text(text)

    def finished(self, identity: str | None = None) -> dict[str, Any] | None:
        """The facts of the checkpoint, of the run ``identity`` where that is given; None where there is none."""
        path = self.folder / RECORD
        if not path.is_file():
            return None
        record = json.loads(path.read_text())
        return record["facts"] if identity in (None, record["identity"]) else None


class States:
    """Saved states of one run; those of a run with another ``identity`` are deleted on opening.

    ``folder``: of this machine, with the run's other work. The states lie there too unless ``place`` is given, the checkpoint's.
    """

    def __init__(self, folder: Path, identity: str, place: Place | None = None):
        self.folder = folder
        self.storage = place.storage if place else open_storage(folder.parent)
        self.key = f"{place.key}.work" if place else folder.name
        if self._read("identity") != identity:
            self.storage.delete_below(self.key)
            self.storage.write(self._at("identity"), identity.encode())
        mark = folder / "identity"
        if not (mark.is_file() and mark.read_text() == identity):  # in an object store the folder is another place than the key
            shutil.rmtree(folder, ignore_errors=True)
            write_text(mark, identity)
        remove_abandoned(folder.glob(".*.tmp"))

    def _at(self, name: str) -> str:
        return f"{self.key}/{name}"

    def _read(self, name: str) -> str | None:
        data, _ = self.storage.read_with_token(self._at(name))
        return None if data is None else data.decode()

    def _keys(self) -> list[str]:
        names = (entry.key for entry in self.storage.list(self.key, below=False))
        return [key for key in names if key.rpartition("/")[2].startswith("state-") and key.endswith(".pt")]

    def latest(self) -> dict[str, Any] | None:
        """The newest state that reads whole, on the CPU, or None."""
        for key in reversed(self._keys()):
            try:
                return self._load(key)
            except FileNotFoundError:  # removed since
                continue
            except (UserError, OSError, MemoryError):  # of the system or the store, not of the state
                raise
            except Exception:  # a disk that was full or lost power: torch raises several kinds
                self.storage.delete([key])
        return None

    def at(self, step: int) -> dict[str, Any]:
        """The state of ``step``, which another process has found. Raises UserError where this one does not see it."""
        try:
            return self._load(self._of(step))
        except FileNotFoundError:
            raise UserError(
                f"one process goes on from {self.storage.shown(self._of(step))}, which another does not see: a lake that several "
                "machines train on lies on a disk that they share, or in an object store"
            ) from None

    def _of(self, step: int) -> str:
        return self._at(f"state-{step:09d}.pt")

    def _load(self, key: str) -> dict[str, Any]:
        while True:
            path = self.storage.local(key)
            try:
                with path.open("rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            except FileNotFoundError:  # the copy: another process of this machine had it too, and was done with it
                if self.storage.is_local:
                    raise
            finally:
                if not self.storage.is_local:  # nobody needs it again; who has it open reads on
                    path.unlink(missing_ok=True)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Keep ``state`` as that of ``step`` and drop the oldest beyond the last two."""
        with self.storage.replacing(self._of(step)) as aside:
            torch.save(state, aside)
        self.storage.delete(self._keys()[:-MAX_STATES])

    def clear(self) -> None:
        """Remove everything: the checkpoint stands."""
        self.storage.delete_below(self.key)
        shutil.rmtree(self.folder, ignore_errors=True)
