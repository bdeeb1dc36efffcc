"""One model of several checkpoints of one architecture: the mean of their weights, the arc between two, or tasks added to a base.

A tensor is read, combined in float64 and written before the next one is read, so that memory is that of two tensors, whatever the
model's size; cost: reading the checkpoints and writing one. A checkpoint merged with itself is itself, bit for bit.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import torch
from safetensors import safe_open

from mmret.atomic import replacing_folder
from mmret.errors import UserError
from mmret.hashing import fingerprint
from mmret.retriever.models.checkpoint import RECORD, model_part, weights_digest
from mmret.retriever.models.kinds import adapter_base

Method = Literal["linear", "slerp", "task"]
METHODS: tuple[Method, ...] = ("linear", "slerp", "task")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_COPIED = (".json", ".txt", ".model", ".jinja")
"""Suffixes of files that say how a model is loaded and asked, besides its weights."""
_KINDS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
          "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}  # fmt: skip
"""Types of tensors by their names in a file."""
_CHUNK = 2**22  # numbers that are combined at once
_PARALLEL = 0.9995
"""Cosine of two tensors from which on the straight line between them is taken: the arc is no longer, and badly conditioned."""
_INDIFFERENT = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "processor_class", "name_or_path", "use_cache"}
"""Keys of JSON files that change nothing that a model does."""


class Part(NamedTuple):
    """A checkpoint that is merged: what it is called, where it lies, and its share."""

    name: str
    folder: Path
    weight: float


@dataclass(frozen=True)
class Merged:
    """What was merged: ``tensors`` in all, ``taken`` those of whole numbers that differ and are the first one's; ``digest`` of the
    result's files."""

    tensors: int
    taken: tuple[str, ...]
    digest: str


def shares(weights: Sequence[float], count: int, method: Method) -> list[float]:
    """The weight of each of ``count`` checkpoints: of an average those given as parts of one, of tasks as given; equal ones where
    none are given. Raises UserError where they fit neither, and where there is no checkpoint."""
    if not count:
        raise UserError("name the checkpoints to merge")
    if weights and len(weights) != count:
        raise UserError(
            f"{len(weights)} weights for {count} checkpoints: give --weight once for each, in their order, or not at all"
        )
    given = [float(weight) for weight in weights] or [1 / count] * count
    if not all(abs(weight) < float("inf") for weight in given):
        raise UserError("a weight is a finite number")
    if method == "task":
        return given
    if min(given) < 0 or sum(given) <= 0:
        raise UserError("weights of an average are 0 or more, and one is above 0; --method task subtracts")
    return [weight / sum(given) for weight in given]


def merge_checkpoints(
    parts: Sequence[Part], out: Path, method: Method = "linear", base: Part | None = None, dtype: str = "auto"
) -> Merged:
    """Write the merge of ``parts`` into folder ``out``, with configuration, processor and recipe of the first one and a record of
    what was merged.

    ``linear``: the mean by weight. ``slerp``, of two: each tensor on the arc between them. ``task``: ``base`` and its differences
    to the others by weight. ``dtype``: of the weights written (``float32``, ``bfloat16``, ``float16``); ``auto``: the first one's.
    Tensors of whole numbers are the first one's. Raises UserError where the checkpoints are no models of one architecture, naming
    the first difference, for a number that is not finite, and where ``out`` is there already.

    >>> merge_checkpoints([Part("a", Path("a"), 0.5), Part("b", Path("b"), 0.5)], Path("merged"))
    """
    if out.exists():
        raise UserError(f"{out} is there already; name another folder")
    if method == "slerp" and len(parts) != 2:
        raise UserError(f"slerp is between two checkpoints, and here are {len(parts)}: take --method linear")
    if (method == "task") != (base is not None):
        raise UserError("--method task adds to the weights of --base: give both, or neither")
    if not parts:
        raise UserError("name the checkpoints to merge")
    every = [*parts, *([base] if base else [])]
    with ExitStack() as opened:
        sources = [_Source(part, opened) for part in every]
        for source in sources[1:]:
            _require_same(sources[0], source)
        combine = _combiner(method, [part.weight for part in parts])
        taken: list[str] = []
        with replacing_folder(out) as aside:
            _copy_files(sources[0].folder, aside)
            for file, names in sources[0].files.items():
                tensors = partial(_tensors, sources, names, combine, dtype, taken)
                _write(aside / file, {name: sources[0].kind(name, dtype) for name in names}, tensors)
            digest = weights_digest(aside)
            (aside / RECORD).write_text(json.dumps(_record(sources, method, digest), indent=2) + "\n")
    return Merged(len(sources[0].shapes), tuple(taken), digest)


class _Source:
    """The tensors of one checkpoint, and which file of its folder holds them."""

    def __init__(self, part: Part, opened: ExitStack):
        self.part, self.folder = part, Path(model_part(part.folder))
        if adapter_base(self.folder) is not None:
            raise UserError(
                f"{part.name} is a LoRA adapter, whose factors cannot be averaged: make whole models first, `mmret merge --adapter "
                f"{part.folder} --out FOLDER`, and merge those"
            )
        self.files = self._files()
        self._open = {file: opened.enter_context(_opened(self.folder / file)) for file in self.files}
        self._file = {}
        for file, handle in self._open.items():
            self.files[file] = list(handle.offset_keys())  # as they lie in the file, so that one is read as it is written
            self._file.update(dict.fromkeys(self.files[file], file))
        self.shapes = {name: tuple(self._open[file].get_slice(name).get_shape()) for name, file in self._file.items()}

    def _files(self) -> dict[str, list[str]]:
        if (self.folder / _WEIGHTS).is_file():
            return {_WEIGHTS: []}
        if (self.folder / _INDEX).is_file():
            placed = index.get("weight_map") if isinstance(index := self.json(_INDEX), dict) else None
            if not isinstance(placed, dict) or not placed or not all(isinstance(file, str) for file in placed.values()):
                raise UserError(f"{self.folder / _INDEX} is damaged: it has no weight_map of files by tensor")
            return {file: [] for file in sorted(set(placed.values()))}
        raise UserError(f"{self.part.name}: {self.folder} holds no {_WEIGHTS}: name the folder of a checkpoint")

    def tensor(self, name: str) -> torch.Tensor:
        return self._open[self._file[name]].get_tensor(name)

    def kind(self, name: str, dtype: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """Type and shape in which the tensor is written."""
        said = self._open[self._file[name]].get_slice(name).get_dtype()
        if said not in _KINDS:
            raise UserError(
                f"tensor {name} of {self.part.name} is of type {said}, which is not merged; those are {', '.join(_KINDS)}"
            )
        found = _KINDS[said]
        return (getattr(torch, dtype) if dtype != "auto" and found.is_floating_point else found), self.shapes[name]

    def json(self, name: str) -> Any:
        try:
            return json.loads((self.folder / name).read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(f"{self.folder / name} is damaged ({error})") from None


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except Exception as error:  # the library has classes of its own
        raise UserError(f"{path} cannot be read as safetensors: {error}") from None


def _require_same(first: _Source, other: _Source) -> None:
    """Raises UserError with the first difference between two checkpoints that cannot be merged."""
    names = first.part.name, other.part.name
    for file in ("config.json", "tokenizer.json", "preprocessor_config.json"):
        one, two = first.json(file), other.json(file)
        if one is not None and two is not None and (where := _difference(one, two)) is not None:
            raise UserError(f"{names[0]} and {names[1]} differ in {file}, at {where}: only checkpoints of one architecture merge")
    if told := _told_otherwise(first, other):
        raise UserError(f"{names[0]} and {names[1]} differ in their recipes' {told}: they are not asked alike")
    missing = [n for n in first.shapes if n not in other.shapes], [n for n in other.shapes if n not in first.shapes]
    for there, here, gone in ((*names, missing[0]), (*names[::-1], missing[1])):
        if gone:
            raise UserError(f"{there} has a tensor {gone[0]}, which {here} has not: only checkpoints of one architecture merge")
    for name, shape in first.shapes.items():
        if shape != other.shapes[name]:
            raise UserError(f"tensor {name} is {list(shape)} in {names[0]} and {list(other.shapes[name])} in {names[1]}")


def _told_otherwise(first: _Source, other: _Source) -> str | None:
    """The setting of a recipe by which two checkpoints would be loaded or asked in different ways."""
    recipes = [(source.json(RECORD) or {}).get("recipe") for source in (first, other)]
    if None in recipes:
        return None
    kinds = [recipe.get("kind") for recipe in recipes]
    asked = ("kind", "instruction") if "mllm" in kinds or "reranker" in kinds else ("kind",)
    return next((name for name in asked if recipes[0].get(name) != recipes[1].get(name)), None)


def _difference(one: Any, two: Any, at: str = "") -> str | None:
    """Where two JSON values differ, but in what changes nothing."""
    if isinstance(one, dict) and isinstance(two, dict):
        for key in dict.fromkeys((*one, *two)):
            if key not in _INDIFFERENT and (found := _difference(one.get(key), two.get(key), f"{at}.{key}" if at else key)):
                return found
        return None
    return None if one == two else at or "its root"


Coefficients = Callable[[Sequence[torch.Tensor]], list[float]]
"""The factor of each tensor in the sum that is the merged one."""


def _combiner(method: Method, weights: Sequence[float]) -> Coefficients:
    if method == "task":  # base + sum of w (x - base)
        return lambda _: [*weights, 1 - sum(weights)]
    if method == "slerp":
        return lambda tensors: _on_the_arc(*tensors, weights[1])
    return lambda _: list(weights)


def _on_the_arc(one: torch.Tensor, two: torch.Tensor, t: float) -> list[float]:
    product, length, other = 0.0, 0.0, 0.0
    for a, b in zip(_chunks(one), _chunks(two), strict=True):
        product, length, other = product + float(a @ b), length + float(a @ a), other + float(b @ b)
    cosine = product / (length * other) ** 0.5 if length and other else 1.0
    if abs(cosine) > _PARALLEL:
        return [1 - t, t]
    angle = torch.acos(torch.tensor(cosine, dtype=torch.float64))
    return [float(torch.sin((1 - t) * angle) / torch.sin(angle)), float(torch.sin(t * angle) / torch.sin(angle))]


def _chunks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Its numbers (n,) float64, some at a time."""
    return (part.double() for part in tensor.reshape(-1).split(_CHUNK))


def _tensors(
    sources: Sequence[_Source], names: Sequence[str], coefficients: Coefficients, dtype: str, taken: list[str]
) -> Iterator[torch.Tensor]:
    """The merged tensors in order, each in pieces of bytes; whole numbers that differ are added to ``taken``."""
    for name in names:
        kind, _ = sources[0].kind(name, dtype)
        yield from _pieces(sources, name, coefficients, kind, taken)


def _pieces(
    sources: Sequence[_Source], name: str, coefficients: Coefficients, kind: torch.dtype, taken: list[str]
) -> Iterator[torch.Tensor]:
    first = sources[0].tensor(name)
    if not first.is_floating_point():
        if any(not torch.equal(first, source.tensor(name)) for source in sources[1:]):
            taken.append(name)
        yield first.reshape(-1)
        return
    tensors = [first, *(source.tensor(name) for source in sources[1:])]  # mapped, not in memory
    factors = coefficients(tensors)
    used = [(source, tensor, factor) for source, tensor, factor in zip(sources, tensors, factors, strict=True) if factor]
    for parts in zip(*(tensor.reshape(-1).split(_CHUNK) for _, tensor, _ in used), strict=True):
        total: torch.Tensor | None = None
        for (source, _, factor), part in zip(used, parts, strict=True):
            if not torch.isfinite(part).all():
                raise UserError(f"tensor {name} of {source.part.name} has numbers that are not finite: its weights are damaged")
            scaled = part.double() * factor
            total = scaled if total is None else total.add_(scaled)
        assert total is not None  # coefficients add up to 1, or are those of tasks and a base
        merged = total.to(kind)
        if not torch.isfinite(merged).all():
            raise UserError(f"tensor {name} of the merge does not fit into {kind}: write float32, or take smaller weights")
        yield merged


def _write(
    path: Path, kinds: dict[str, tuple[torch.dtype, tuple[int, ...]]], tensors: Callable[[], Iterator[torch.Tensor]]
) -> None:
    """A safetensors file of tensors that come one after the other, in pieces."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    names = {kind: name for name, kind in _KINDS.items()}
    at = 0
    for name, (kind, shape) in kinds.items():
        size = torch.Size(shape).numel() * kind.itemsize
        header[name] = {"dtype": names[kind], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for piece in tensors():
            _write_bytes(file, piece)


def _write_bytes(file: IO[bytes], piece: torch.Tensor) -> None:
    file.write(piece.contiguous().view(torch.uint8).numpy().data)


def _copy_files(folder: Path, aside: Path) -> None:
    """What says how the model is loaded and asked, without the records of the run that made it."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in _COPIED and path.name not in (RECORD, "trainer_state.json"):
            shutil.copyfile(path, aside / path.name)
        elif path.is_dir() and (path / "config.json").is_file() and path.name[:1].isdigit():  # a module of sentence-transformers
            shutil.copytree(path, aside / path.name)


def _record(sources: Sequence[_Source], method: Method, digest: str) -> dict[str, Any]:
    """How the merge is loaded and asked: as the first checkpoint; and what it was made of, by digests of their files."""
    own = sources[0].json(RECORD) or {}
    dimensions = [set((source.json(RECORD) or {}).get("recipe", {}).get("matryoshka", ())) for source in sources]
    recipe = own.get("recipe", {})
    if recipe.get("matryoshka"):  # what all were trained to rank by
        recipe = recipe | {"matryoshka": [d for d in recipe["matryoshka"] if all(d in each for each in dimensions)]}
    merged = [{"name": s.part.name, "digest": weights_digest(s.part.folder), "weight": s.part.weight} for s in sources]
    if method == "task":
        merged[-1]["weight"] = None
    made = {
        "method": method,
        "parts": merged if method != "task" else merged[:-1],
        "base": merged[-1] if method == "task" else None,
    }
    return {"identity": fingerprint(made, digest), "recipe": recipe, "merged": made, "facts": {}}
