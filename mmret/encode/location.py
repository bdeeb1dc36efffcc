"""Finds a model's files: in the lake, in a local folder, or on the hub (through its local cache, so offline too)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmret.encode.revision import folder_revision
from mmret.errors import UserError
from mmret.paths import local_path
from mmret.settings import EncoderSettings


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


def locate(settings: EncoderSettings, lake_root: Path) -> Location:
    """Find ``settings.model``. Raises UserError for towers the lake has not trained yet and for a path that does not exist."""
    inside = lake_root / settings.model
    if settings.model.startswith("towers/"):
        if inside.is_dir():
            return Location(settings.model, inside, None)
        raise UserError(
            f"the lake {lake_root} has no {settings.model} yet: `mmret run --lake {lake_root}` trains it "
            "(profile demo), or name another model in encoders.*.model"
        )
    path = local_path(settings.model, "encoders.*.model")
    if path.exists():
        if said := sentence_transformers_remark(path):
            raise UserError(f"encoders.*.model: {said}")
        return Location(path.name, path, None)
    if path.is_absolute() or settings.model.startswith(("~", "./", "../")):
        raise UserError(f"no model folder {path}: correct encoders.*.model")
    return Location(settings.model, None, settings.revision)


def from_hub(location: Location, patterns: Sequence[str], weights: Sequence[str]) -> Location:
    """The hub repository's snapshot as a local folder: files that fit ``patterns`` and the first of ``weights`` it has.

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
                break
            except EntryNotFoundError:
                continue
        else:
            raise FileNotFoundError(f"none of {', '.join(weights)}")
    except Exception as error:  # network, cache and permission errors have no common base
        raise load_error(location.name, error) from error
    return Location(location.name, folder, folder.name[:12])


def load_error(name: str, error: Exception) -> UserError:
    """What to tell a user whose model could not be loaded."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"the model '{name}' could not be loaded ({type(error).__name__}: {reason[:200]}). Without a network, give the "
        "path of a local folder as encoders.*.model; with a filled cache, set HF_HOME to it and HF_HUB_OFFLINE=1"
    )


def sentence_transformers_remark(folder: str | Path) -> str | None:
    """What to tell a user who gave a sentence-transformers folder that is no model of transformers itself; None for any other.

    Of its parts one may be such a model, which is named then. A folder with CLIP's configuration beside ``modules.json`` is both.
    """
    folder = Path(folder)
    if not (folder / "modules.json").is_file() or _sees_pictures(folder):
        return None
    parts = [part for part in sorted(p for p in folder.iterdir() if p.is_dir()) if _sees_pictures(part)]
    use = f"its part {parts[0]} is one, give that" if parts else "none of its parts is one: it embeds texts alone"
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
