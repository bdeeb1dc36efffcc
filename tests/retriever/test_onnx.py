"""Invariants: the exported graphs give torch's vectors for any batch and length; what is not equal is not written."""

from __future__ import annotations

import numpy as np
import pytest

from mmret.errors import UserError
from mmret.retriever.models import onnx
from mmret.retriever.models.clip import ClipRetriever
from tests.retriever.test_clip import TEXTS

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="needs the extra 'onnx'")


@pytest.fixture(scope="module")
def exported(clip_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("onnx") / "out"
    return out, onnx.export_onnx(clip_folder, out)


def test_the_graphs_give_torchs_vectors_at_any_batch_and_length(exported, clip_folder, pictures):
    folder, info = exported
    ours, theirs = ClipRetriever.load(clip_folder, "cpu"), onnx.OnnxRetriever(folder)
    assert info["largest_difference"] <= onnx.TOLERANCE and theirs.dim == ours.dim
    files, texts = list(pictures.values())[:7], [*TEXTS, "", "a", "no hat " * 3, "green " * 500]
    for images, words in ((files, None), (None, texts), (files, texts)):
        for batch in (1, 2, 7):
            np.testing.assert_allclose(theirs.encode(images, words, batch), ours.encode(images, words), atol=1e-5)
    assert theirs.truncated == 2 * 3  # the one long text, with and without pictures, three times


def test_a_graph_that_differs_is_not_written(clip_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        onnx.OnnxRetriever,
        "encode",
        lambda self, images, texts, batch: np.ones((len(images if texts is None else texts), self.dim), np.float32),
    )
    with pytest.raises(UserError, match="differs from torch's by"):
        onnx.export_onnx(clip_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("off, fits", [(0.5e-4, True), (2e-4, False)])
def test_one_value_of_one_composed_query_may_be_off_by_the_tolerance_and_no_more(exported, clip_folder, monkeypatch, off, fits):
    right = onnx.OnnxRetriever.encode

    def nearly_right(self, images, texts, batch):
        rows = right(self, images, texts, batch)
        rows[-1, 3] += off * (images is not None and texts is not None and batch == 3)
        return rows

    monkeypatch.setattr(onnx.OnnxRetriever, "encode", nearly_right)
    ours = ClipRetriever.load(clip_folder, "cpu")
    if fits:
        assert off * 0.9 < onnx._check(ours, exported[0]) < onnx.TOLERANCE
    else:
        with pytest.raises(UserError, match="differs from torch's by 0.000"):
            onnx._check(ours, exported[0])
    assert ours.truncated == 0, "what the check embeds does not count"


def test_what_is_no_clip_checkpoint_or_no_export_is_refused(tmp_path, clip_folder):
    with pytest.raises(UserError, match="no exported model"):
        onnx.OnnxRetriever(clip_folder)
    with pytest.raises(UserError, match="exists already"):
        onnx.export_onnx(clip_folder, tmp_path)
