"""Any text model of sentence-transformers for the signal ``caption``, local or from the hub: it need not belong to an image tower.

Tokens, pooling, dense layers and normalisation are the library's own modules as ``modules.json`` names them, so vectors equal those
of its ``encode``. A multilingual model makes captions in several languages comparable. Needs the extra ``text``.

Cost: MiniLM (22 M parameters) some 200 short captions a second of one core.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from mmret.devices import device_of
from mmret.encode.base import TorchEncoder, transformer_bytes
from mmret.encode.location import TOKENIZER, WEIGHTS, Location, load_error, loading, require
from mmret.errors import UserError
from mmret.hashing import fingerprint
from mmret.settings import EncoderSettings

FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
OLDER_WEIGHTS = ("pytorch_model.bin", "*/pytorch_model.bin")
_FILES_OF = {
    "Transformer": (("config.json",), WEIGHTS, TOKENIZER),
    "Pooling": (("config.json",),),
    "Dense": (("config.json",), ("model.safetensors", "pytorch_model.bin")),
}
"""What a module needs: the library would take defaults, or ask the hub, for some files that are missing."""
_TOKENS = 512  # assumed for the memory of models that say no limit


class SentenceTransformersEncoder(TorchEncoder):
    """A ``SentenceTransformer`` and the prompt that is set before each caption. Texts only."""

    has_text = True

    def __init__(self, network: Any, location: Location, settings: EncoderSettings):
        self.prompt = _prompt(network, settings, location.name)
        self.limit = network.max_seq_length
        self._one_at_a_time = Lock()  # the tokenizer's padding and truncation are its state
        self.device = device_of(settings.device, "encoders.*.device")
        self.network = network.eval().to(self.device)
        with torch.inference_mode():
            width = self._text_features(["a"]).shape[1]
        tokens = min(self.limit or _TOKENS, _TOKENS)
        marks = [f"prompt-{fingerprint(self.prompt)[:6]}"] if self.prompt else []
        super().__init__(network, None, location, settings, width, transformer_bytes(int(tokens), width), marks)

    @classmethod
    def load(cls, settings: EncoderSettings, signal: str, location: Location) -> SentenceTransformersEncoder:
        """Raises UserError for a signal of pictures, without sentence-transformers, for a folder that is none of its models or
        lacks a file, and for a prompt that the model has not."""
        if signal != "caption":
            raise UserError(f"encoders.{signal}.kind is 'sentence_transformers', which reads texts: it is for captions only")
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise UserError("encoders of kind sentence_transformers need the extra 'text': pip install 'mmret[text]'") from None
        if location.path is None:
            location = _from_hub(location)
        _require_modules(location.path)
        with loading(location):
            network = SentenceTransformer(
                str(location.path), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32}
            )
        return cls(network, location, settings)

    def preprocess(self, data: bytes) -> Tensor:
        raise UserError(f"{self.model} reads texts and sees no pictures: it is for captions only")

    def encode_images(self, images: Any) -> Any:
        raise UserError(f"{self.model} reads texts and sees no pictures: it is for captions only")

    def image_features(self, pixels: Tensor) -> Tensor:
        raise UserError(f"{self.model} reads texts and sees no pictures: it is for captions only")

    def tokens(self, texts: list[str]) -> dict[str, Any]:
        with self._one_at_a_time:
            return dict(self.network.preprocess(texts, prompt=self.prompt))

    def text_features(self, **tokens: Any) -> Tensor:
        vectors = self.network(tokens)["sentence_embedding"]
        return vectors[:, : self.network.truncate_dim] if self.network.truncate_dim else vectors

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        from sentence_transformers.models import Transformer

        if not len(texts) or not self.limit or not isinstance(self.network[0], Transformer):
            return [False] * len(texts)
        with self._one_at_a_time:
            whole = self.network.preprocess(
                list(texts), prompt=self.prompt, processing_kwargs={"text": {"truncation": False, "verbose": False}}
            )
        return (whole["attention_mask"].sum(1) > self.limit).tolist()


def _prompt(network: Any, settings: EncoderSettings, name: str) -> str:
    """The text set before each caption: the settings', or the model's default; "" where there is none."""
    if settings.prompt is not None:
        return settings.prompt
    if settings.prompt_name is not None and settings.prompt_name not in network.prompts:
        have = ", ".join(network.prompts) or "none"
        raise UserError(f"encoders.caption.prompt_name is '{settings.prompt_name}', and the prompts of {name} are: {have}")
    return network.prompts.get(settings.prompt_name or network.default_prompt_name, "")


def _require_modules(folder: Path) -> None:
    """Raise UserError where ``folder`` has no modules.json, or not the files of what that names."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        named = [(module["type"].rpartition(".")[2], module["path"]) for module in modules]
    except FileNotFoundError:
        raise UserError(
            f"the model '{folder}' could not be loaded: the folder has no modules.json, so it is no model of sentence-transformers "
            "and says nothing of how its tokens become a vector"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the model '{folder}' could not be loaded: modules.json cannot be read ({error}); copy it again") from None
    for kind, path in named:
        require(folder, *([str(Path(path) / name) for name in group] for group in _FILES_OF.get(kind, ())))


def _from_hub(location: Location) -> Location:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(location.name, revision=location.revision, allow_patterns=list(FILES)))
        if not any(folder.rglob("*.safetensors")):
            snapshot_download(location.name, revision=folder.name, allow_patterns=list(OLDER_WEIGHTS))
    except Exception as error:  # network, cache and permission errors have no common base
        raise load_error(location.name, error) from error
    return Location(location.name, folder, folder.name[:12])
