"""Invariant: a checkpoint with one weight that is not a number gives no vector to anybody, and the message names the model and
the picture; one whose file is not whole is neither loaded nor trained from, whatever its kind."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import mmret
from mmret.errors import UserError
from mmret.retriever.embed import EmbedOptions, embed
from mmret.retriever.models.clip import ClipRetriever
from mmret.retriever.models.clip_reranker import ClipReranker
from mmret.retriever.models.usable import usable
from mmret.retriever.train.kinds import EMBEDDERS
from mmret.settings import RerankerSettings
from mmret.unit_vectors import UnusableVectors, require_unit
from tests.retriever.mllm_folders import qwen2_vl
from tests.retriever.runs import small


@pytest.fixture(scope="module")
def damaged(clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with one weight of each tower damaged."""
    folder = tmp_path_factory.mktemp("damaged") / "checkpoint"
    shutil.copytree(clip_folder, folder)
    retriever = ClipRetriever.load(folder, "cpu")
    with torch.no_grad():
        retriever.model.visual_projection.weight[0, 0] = torch.nan
        retriever.model.text_projection.weight[0, 0] = torch.inf
    retriever.save(folder)
    return folder


def test_a_damaged_checkpoint_encodes_nothing(damaged: Path, pictures: dict[str, bytes], tmp_path: Path):
    retriever = ClipRetriever.load(damaged, "cpu")
    files = list(pictures.values())[:3]
    with pytest.raises(UnusableVectors, match="picture 1 of 3 a vector that is not of finite numbers: its weights are damaged"):
        retriever.encode(files)
    with pytest.raises(UnusableVectors, match="the text 'at night' a vector"):
        retriever.encode(texts=["at night"])
    with pytest.raises(UnusableVectors, match="picture 1 of 1 and the text 'at night'"):
        retriever.encode(files[:1], ["at night"])
    (tmp_path / "a.png").write_bytes(files[0])
    with pytest.raises(UnusableVectors, match=r"the picture .*a\.png a vector"):
        retriever.encode([tmp_path / "a.png"])


def test_a_damaged_checkpoint_embeds_no_folder(damaged: Path, pictures: dict[str, bytes], tmp_path: Path):
    source = tmp_path / "pictures"
    source.mkdir()
    (source / "dress.png").write_bytes(next(iter(pictures.values())))
    with pytest.raises(UserError, match=f"{damaged} gave dress.png of {source} a vector that is not of finite numbers"):
        embed([str(source)], damaged, tmp_path / "out", EmbedOptions(device="cpu"))
    assert not (tmp_path / "out").exists()


def cut_short(folder: Path, name: str = "model.safetensors") -> Path:
    (folder / name).write_bytes((folder / name).read_bytes()[:-40])
    return folder


def test_two_towers_and_a_cross_encoder_whose_file_is_cut_short_are_neither_loaded_nor_trained_from(clip_folder, tmp_path):
    towers, cross = shutil.copytree(clip_folder, tmp_path / "towers"), tmp_path / "cross"
    cross.mkdir()
    ClipReranker.begin(clip_folder, RerankerSettings(grid=2, heads=2), seed=1).save(cross)
    cut_short(towers), cut_short(cross)
    for load in (
        lambda: mmret.Retriever.load(towers),
        lambda: mmret.Reranker.load(cross),
        lambda: EMBEDDERS["clip"].load(small("clip"), towers),
        lambda: EMBEDDERS["reranker"].load(small("reranker"), towers),
        lambda: EMBEDDERS["reranker"].load(small("reranker"), cross),
    ):
        with pytest.raises(UserError, match="its weights are damaged .* fetch or train it again"):
            load()


def test_so_it_is_of_an_mllm_and_of_an_adapter(tmp_path):
    pytest.importorskip("peft")
    base = qwen2_vl(tmp_path / "qwen2_vl")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    EMBEDDERS["mllm"].load(small("mllm"), base).save(adapter)
    cut_short(adapter, "adapter_model.safetensors")
    for folder in (adapter, base):
        with pytest.raises(UserError, match=f"{folder}: its weights are damaged"):
            mmret.Retriever.load(folder, "cpu")
        with pytest.raises(UserError, match=f"{folder}: its weights are damaged"):
            EMBEDDERS["mllm"].load(small("mllm"), folder)
        cut_short(base)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ([0, 0], "a vector of zeros"),
        ([np.nan, 1], "not of finite numbers"),
        ([np.inf, 0], "not of finite numbers"),
        ([-np.inf, 0], "not of finite numbers"),
        ([3, 4], "a vector of length 5 instead of 1"),
    ],
)
@pytest.mark.parametrize("precision", [np.float16, np.float32, np.float64])
def test_a_row_that_is_no_unit_vector_is_found_whatever_the_precision(row: list[float], kind: str, precision: type):
    vectors = np.array([[1, 0], [0, 1], row, row], precision)
    with pytest.raises(UnusableVectors, match=kind) as found:
        require_unit(vectors, lambda at, what: f"row {at} is {what}")
    assert (found.value.row, found.value.count) == (2, 2)
    assert require_unit(vectors[:2], lambda at, what: what) is not None
    assert len(usable(np.empty((0, 4), np.float32), [], None)) == 0
