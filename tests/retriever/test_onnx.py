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
    monkeypatch.setattr(onnx, "TOLERANCE", 0.0)
    monkeypatch.setattr(
        onnx.OnnxRetriever,
        "encode",
        lambda self, images, texts, batch: np.ones((len(images if texts is None else texts), self.dim), np.float32),
    )
    with pytest.raises(UserError, match="differs from torch's by"):
        onnx.export_onnx(clip_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_clip_checkpoint_or_no_export_is_refused(tmp_path, clip_folder):
    with pytest.raises(UserError, match="no exported model"):
        onnx.OnnxRetriever(clip_folder)
    with pytest.raises(UserError, match="exists already"):
        onnx.export_onnx(clip_folder, tmp_path)
