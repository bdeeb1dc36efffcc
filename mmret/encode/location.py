"""Finds a model's files: in the lake, in a local folder, or on the hub (through its local cache, so offline too)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmret.encode.quiet import silence
from mmret.encode.revision import folder_revision
from mmret.errors import UserError
from mmret.paths import local_path
from mmret.settings import EncoderSettings
from mmret.storage import Storage, open_storage


@dataclass(frozen=True)
class Location:
    """``path`` is a local folder or file, or None for a name that the model's own library resolves."""

    name: str
    path: Path | None
    revision: str | None

    @property
    def label(self) -> str:
        """``name@revision``. A local model's revision is the digest of its files, wherever the folder lies."""
        return f"{self.name}@{folder_revision(self.path) if self.path and self.revision is None else self.revision}"


def locate(settings: EncoderSettings, lake: Storage | str | Path) -> Location:
    """Find ``settings.model``. Raises UserError for towers the lake has not trained yet and for a path that does not exist."""
    if settings.model.startswith("towers/"):
        storage = open_storage(lake) if isinstance(lake, str | Path) else lake
        if storage.has_folder(settings.model):
            return Location(settings.model, storage.local_folder(settings.model), None)
        raise UserError(
            f"the lake {storage.address} has no {settings.model} yet: `mmret run --lake {storage.address}` trains it "
            "(profile demo), or name another model in encoders.*.model"
        )
    path = local_path(settings.model, "encoders.*.model")
    if path.exists():
        if settings.kind != "sentence_transformers" and (said := sentence_transformers_remark(path)):
            raise UserError(f"encoders.*.model: {said}")
        return Location(path.name, path, None)
    if path.is_absolute() or settings.model.startswith(("~", "./", "../")):
        raise UserError(f"no model folder {path}: correct encoders.*.model")
    return Location(settings.model, None, settings.revision)


def from_hub(location: Location, patterns: Sequence[str], weights: Sequence[str]) -> Location:
    """The hub repository's snapshot as a local folder: files that fit ``patterns`` and the first of ``weights`` it has, with the
    parts that an index of weights names.

    ``revision`` of the result is the commit. Raises UserError where the files are not in the cache and cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    repository = location.name.removeprefix("hf-hub:")
    try:
        folder = Path(snapshot_download(repository, revision=location.revision, allow_patterns=list(patterns)))
        for name in weights:
            try:
                hf_hub_download(repository, name, revision=folder.name)
            except EntryNotFoundError:
                continue
            for part in _parts_of(folder / name):
                hf_hub_download(repository, part, revision=folder.name)
            break
        else:
            raise FileNotFoundError(f"none of {', '.join(weights)}")
    except Exception as error:  # network, cache and permission errors have no common base
        raise load_error(location.name, error) from error
    return Location(location.name, folder, folder.name[:12])


WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Where transformers keeps a model's weights, whole or with an index of their parts."""
TOKENIZER = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json")
PROCESSOR = ("preprocessor_config.json", "processor_config.json")


def require(folder: Path, *groups: Sequence[str]) -> None:
    """Raise UserError naming the files where ``folder`` has none of a group."""
    for group in groups:
        if not any((folder / name).is_file() for name in group):
            raise UserError(
                f"the model '{folder}' could not be loaded: the folder has no {' and no '.join(group)}; "
                "copy all files of the model there"
            )


def transformers_folder(location: Location, patterns: Sequence[str], *needs: Sequence[str]) -> Location:
    """A model of transformers as a local folder that has its files: from the hub where ``location`` is no folder yet.

    ``needs``: groups of names, of each of which one must be there, besides config.json and weights. Raises UserError naming the
    files that are missing.
    """
    if location.path is None:
        location = from_hub(location, patterns, WEIGHTS)
    require(location.path, ("config.json",), WEIGHTS, *needs)
    whole = next(name for name in WEIGHTS if (location.path / name).is_file())
    if gone := [part for part in _parts_of(location.path / whole) if not (location.path / part).is_file()]:
        raise UserError(
            f"the model '{location.path}' could not be loaded: the folder has no {gone[0]}, one of the parts that {whole} names; "
            "copy all files of the model there"
        )
    return location


def _parts_of(weights: Path) -> list[str]:
    """The files that an index of weights names; none for a file of weights."""
    if not weights.name.endswith(".index.json"):
        return []
    try:
        return sorted({str(name) for name in json.loads(weights.read_text())["weight_map"].values()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{weights} is no index of weights ({error}): copy it again") from None


def configuration(folder: Path) -> dict:
    """``config.json`` of a model folder. Raises UserError where it cannot be read."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise UserError(f"the model '{folder}' could not be loaded: config.json cannot be read ({error}); copy it again") from None
    return found


LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AssertionError, ImportError)
"""What libraries raise for files that do not fit together."""


@contextmanager
def loading(location: Location) -> Iterator[None]:
    """Inside the block a library loads the model of ``location``: quietly, and what it raises becomes a UserError."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        with silence():
            yield
    except UserError:
        raise
    except (*LOAD_ERRORS, SafetensorError, StrictDataclassError) as error:
        raise load_error(str(location.path or location.name), error) from error


def complete_weights(name: str, info: dict, unused: Sequence[str] = ()) -> set[str]:
    """The tensors that a network has and its files had not, of ``info`` that from_pretrained returns.

    Raises UserError where any is missing but those with one of ``unused`` in their names: it would be random.
    """
    missing = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    if vital := sorted(key for key in missing if not any(part in key.split(".") for part in unused)):
        raise UserError(
            f"the model '{name}' could not be loaded: its weights lack {len(vital)} of the tensors that its config.json asks for "
            f"({vital[0]}, ...); copy the whole model, and look whether it is of this kind"
        )
    return missing


def load_error(name: str, error: Exception) -> UserError:
    """What to tell a user whose model could not be loaded."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"the model '{name}' could not be loaded ({type(error).__name__}: {reason[:200]}). Without a network, give the "
        "path of a local folder as encoders.*.model; with a filled cache, set HF_HOME to it and HF_HUB_OFFLINE=1"
    )


_TEXTS_ALONE = "as an encoder of kind sentence_transformers does for captions"


def sentence_transformers_remark(folder: str | Path) -> str | None:
    """What to tell a user who gave a sentence-transformers folder that is no model of transformers itself; None for any other.

    Of its parts one may be such a model, which is named then. A folder with CLIP's configuration beside ``modules.json`` is both.
    """
    folder = Path(folder)
    if not (folder / "modules.json").is_file() or _sees_pictures(folder):
        return None
    parts = [part for part in sorted(p for p in folder.iterdir() if p.is_dir()) if _sees_pictures(part)]
    use = (
        f"its part {parts[0]} is one, give that"
        if parts
        else "none of its parts is one: it embeds texts alone, for which encoders.caption.kind is sentence_transformers"
    )
    return (
        f"{folder} is a sentence-transformers folder, and a model folder as transformers saves it is expected (config.json, "
        f"weights, tokenizer, preprocessor_config.json); {use}"
    )


def _sees_pictures(folder: Path) -> bool:
    """Whether the folder itself holds a model of transformers that embeds pictures."""
    try:
        config = json.loads((folder / "config.json").read_text())
        return "vision_config" in config or "patch_size" in config
    except (OSError, ValueError, TypeError):
        return False
