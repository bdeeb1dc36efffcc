"""Invariants of exported graphs, ONNX and OpenVINO: they give torch's vectors for any batch and length; what is not equal is
not written."""

from __future__ import annotations

import json
import os
import shutil
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from typer.testing import CliRunner

from mmret.cli import app
from mmret.encode.engines.open_vino import load_openvino
from mmret.errors import UserError
from mmret.retriever.models import graphs, onnx, openvino
from mmret.retriever.models.clip import ClipRetriever
from mmret.retriever.models.onnx import OnnxRetriever, export_onnx
from mmret.retriever.models.openvino import OpenvinoRetriever, export_openvino
from tests.docs import engines
from tests.retriever.test_clip import TEXTS

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="needs the extra 'onnx'")

ENGINES = {"onnxruntime": (OnnxRetriever, export_onnx), "openvino": (OpenvinoRetriever, export_openvino)}


@pytest.fixture(scope="module", params=ENGINES)
def engine(request):
    if not find_spec(request.param):
        pytest.skip(f"needs {request.param}")
    return ENGINES[request.param]


@pytest.fixture(scope="module")
def from_torch(clip_folder, tmp_path_factory):
    """The one export by torch, which takes seconds."""
    out = tmp_path_factory.mktemp("from_torch") / "out"
    return out, export_onnx(clip_folder, out)


@pytest.fixture(scope="module")
def copied(from_torch):
    """Inside, torch's graphs are copied instead of exported again."""

    def copy(retriever, folder):
        for path in from_torch[0].glob("*.onnx"):
            shutil.copy(path, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "write_onnx_graphs", copy)
        patch.setattr(openvino, "write_onnx_graphs", copy)
        yield


@pytest.fixture(scope="module")
def exported(engine, from_torch, copied, clip_folder, tmp_path_factory):
    if engine[1] is export_onnx:
        return from_torch
    out = tmp_path_factory.mktemp("exported") / "out"
    return out, engine[1](clip_folder, out)


def test_the_graphs_give_torchs_vectors_at_any_batch_and_length(engine, exported, clip_folder, pictures):
    folder, info = exported
    ours, theirs = ClipRetriever.load(clip_folder, "cpu"), engine[0](folder)
    assert info["largest_difference"] <= graphs.TOLERANCE and theirs.dim == ours.dim
    files, texts = list(pictures.values())[:7], [*TEXTS, "", "a", "no hat " * 3, "green " * 500]
    for images, words in ((files, None), (None, texts), (files, texts)):
        for batch in (1, 2, 7):
            np.testing.assert_allclose(theirs.encode(images, words, batch), ours.encode(images, words), atol=1e-5)
    assert theirs.truncated == 2 * 3  # the one long text, with and without pictures, three times


def test_a_folder_holds_its_graphs_their_facts_and_the_processor_and_nothing_of_between(engine, exported):
    folder, info = exported
    assert json.loads((folder / engine[0].info).read_text()) == info
    ends = {"onnx": {"onnx"}, "openvino": {"xml", "bin"}}[engine[0].info.removesuffix(".json")]
    graph_files = {f"{graph}.{end}" for graph in ("image", "text") for end in ends}
    processor = {"preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir()} == graph_files | processor | {engine[0].info}


def test_a_result_is_the_callers_and_does_not_change_with_the_next_call(engine, exported):
    loaded = engine[0](exported[0])
    first = loaded.features("text", loaded._tokens(["a"]))
    kept = first.copy()
    loaded.features("text", loaded._tokens(["no hat"]))
    assert (first == kept).all()


def test_the_lines_of_the_page_make_our_composed_vectors(engine, exported, clip_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    engines.save_picture(tmp_path)
    kind = engine[0].info.removesuffix(".json")
    os.symlink(exported[0], f"mmret-{kind}")
    made = engines.run("What is asked", {"onnx": "CLIP in ONNX", "openvino": "CLIP in OpenVINO"}[kind])
    ours = ClipRetriever.load(clip_folder, "cpu").encode([engines.PICTURE], [made["text"]])
    assert engines.cosine(made["vector"], ours) > 0.999999


def test_the_command_writes_what_its_format_says(engine, copied, clip_folder, tmp_path):
    out = tmp_path / "out"
    kind = engine[0].info.removesuffix(".json")
    chosen = [] if kind == "onnx" else ["--format", kind]  # as it was before there was a choice
    arguments = ["export-onnx", "--checkpoint", str(clip_folder), "--out", str(out), *chosen, "--json"]
    said = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)
    assert said == {"out": str(out), **json.loads((out / engine[0].info).read_text())}


def test_a_graph_that_differs_is_not_written(engine, copied, clip_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        engine[0],
        "encode",
        lambda self, images, texts, batch: np.ones((len(images if texts is None else texts), self.dim), np.float32),
    )
    with pytest.raises(UserError, match="differs from torch's by"):
        engine[1](clip_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.iterdir())


@pytest.mark.parametrize("off, fits", [(0.5e-4, True), (2e-4, False)])
def test_one_value_of_one_composed_query_may_be_off_by_the_tolerance_and_no_more(
    engine, exported, clip_folder, monkeypatch, off, fits
):
    right = engine[0].encode

    def nearly_right(self, images, texts, batch):
        rows = right(self, images, texts, batch)
        rows[-1, 3] += off * (images is not None and texts is not None and batch == 3)
        return rows

    monkeypatch.setattr(engine[0], "encode", nearly_right)
    ours = ClipRetriever.load(clip_folder, "cpu")
    if fits:
        assert off * 0.9 < graphs.check(ours, engine[0](exported[0]), "X") < graphs.TOLERANCE
    else:
        with pytest.raises(UserError, match="under X differs from torch's by 0.000"):
            graphs.check(ours, engine[0](exported[0]), "X")
    assert ours.truncated == 0, "what the check embeds does not count"


def test_what_is_no_clip_checkpoint_or_no_export_is_refused(engine, tmp_path, clip_folder):
    with pytest.raises(UserError, match="no exported model: `mmret export-onnx"):
        engine[0](clip_folder)
    with pytest.raises(UserError, match="exists already"):
        engine[1](clip_folder, tmp_path)


def test_openvino_tells_nobody_of_its_import():
    if not find_spec("openvino"):
        pytest.skip("needs openvino")
    load_openvino()
    assert sys.modules["openvino_telemetry"] is None
