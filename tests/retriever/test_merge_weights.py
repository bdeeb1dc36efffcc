"""Invariants of merging: a checkpoint merged with itself is itself, bit for bit, and weights 1 and 0 give the first; means, arcs
and tasks are those computed by hand; what is not of one architecture is refused with the first difference; a merge loads and says
what it is made of."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import mmret
from mmret.cli import app
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.retriever.models import merge_weights
from mmret.retriever.models.checkpoint import weights_digest
from mmret.retriever.models.merge_weights import Part, merge_checkpoints, shares

pytestmark = pytest.mark.usefixtures("one_thread")
A = {
    "x": torch.tensor([[3.0, 0.0], [0.0, 0.0]]),
    "y": torch.tensor([-0.0, 1e-30, 7.1]),
    "n": torch.tensor(2.0),
    "ids": torch.arange(3),
}
B = {
    "x": torch.tensor([[0.0, 0.0], [0.0, 5.0]]),
    "y": torch.tensor([1.5, 2e30, 7.3]),
    "n": torch.tensor(4.0),
    "ids": torch.arange(3),
}


def folder(path, tensors, config=None):
    path.mkdir()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps({"model_type": "clip", **(config or {})}))
    return path


@pytest.fixture
def two(tmp_path):
    return folder(tmp_path / "a", A), folder(tmp_path / "b", B)


def merged(out, folders, weights=(), method="linear", base=None, **more):
    each = shares(weights, len(folders), method)
    parts = [Part(path.name, path, share) for path, share in zip(folders, each, strict=True)]
    made = merge_checkpoints(parts, out, method, Part("base", base, 0) if base else None, **more)
    return load_file(out / "model.safetensors"), made


def same_bits(one, other):
    assert list(one) == list(other) or set(one) == set(other)
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype and tensor.shape == other[name].shape
        assert tensor.reshape(-1).view(torch.uint8).equal(other[name].reshape(-1).view(torch.uint8)), name


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("method", "weights"), [("linear", (0.3, 0.7)), ("slerp", (0.3, 0.7)), ("task", (0.4, 0.6))])
def test_a_checkpoint_merged_with_itself_is_itself_bit_for_bit(method, weights, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(merge_weights, "_CHUNK", 7)
    random = torch.Generator().manual_seed(1)
    tensors = {name: (torch.randn(9, 5, generator=random) * 10**n).to(kind) for n, name in enumerate("pqr", -3)}
    path = folder(tmp_path / "a", {**tensors, "zero": torch.zeros(4, dtype=kind), "ids": torch.arange(5)})
    base = folder(tmp_path / "base", {**{n: t + 1 for n, t in tensors.items()}, "zero": torch.ones(4), "ids": torch.arange(5)})
    found, _ = merged(tmp_path / "out", [path, path], weights, method, base if method == "task" else None)
    same_bits(found, load_file(path / "model.safetensors"))


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_weights_one_and_nothing_give_the_first(method, two, tmp_path):
    same_bits(merged(tmp_path / "out", two, (1, 0), method)[0], A)
    same_bits(merged(tmp_path / "other", two, (0, 2), method)[0], B)


def test_a_mean_is_that_of_the_weights_whatever_they_add_up_to(two, tmp_path):
    found, _ = merged(tmp_path / "out", two, (1, 3))
    for name in "xyn":
        torch.testing.assert_close(found[name], (A[name].double() * 0.25 + B[name].double() * 0.75).float(), rtol=0, atol=0)
    assert torch.equal(merged(tmp_path / "equal", two)[0]["n"], torch.tensor(3.0))


@pytest.mark.parametrize(("weights", "t"), [((), 0.5), ((2, 1), 1 / 3)])
def test_the_arc_between_orthogonal_tensors_is_that_by_hand_and_of_parallel_ones_the_line(weights, t, two, tmp_path):
    found, _ = merged(tmp_path / "out", two, weights, "slerp")
    by_hand = math.sin((1 - t) * math.pi / 2) * A["x"] + math.sin(t * math.pi / 2) * B["x"]
    torch.testing.assert_close(found["x"], by_hand)
    torch.testing.assert_close(found["n"], (1 - t) * A["n"] + t * B["n"])


def test_tasks_are_weighted_differences_added_to_the_base(two, tmp_path):
    base = folder(tmp_path / "base", {**A, "x": torch.ones(2, 2), "n": torch.tensor(1.0)})
    found, _ = merged(tmp_path / "out", two, (0.5, -2), "task", base)
    torch.testing.assert_close(found["x"], 1 + 0.5 * (A["x"] - 1) - 2 * (B["x"] - 1))
    assert float(found["n"]) == 1 + 0.5 * 1 - 2 * 3


def test_whole_numbers_are_the_first_ones_and_it_is_said(two, tmp_path):
    other = folder(tmp_path / "c", {**B, "ids": torch.arange(3) + 1})
    found, made = merged(tmp_path / "out", [two[0], other])
    assert made.taken == ("ids",) and found["ids"].equal(A["ids"]) and made.tensors == 4
    assert merged(tmp_path / "same", two)[1].taken == ()


def test_files_of_many_parts_merge_like_one(two, tmp_path):
    parts = {"model-1.safetensors": ["x", "ids"], "model-2.safetensors": ["n", "y"]}
    many = tmp_path / "many"
    many.mkdir()
    shutil.copy(two[0] / "config.json", many)
    for file, names in parts.items():
        save_file({name: A[name] for name in names}, many / file)
    (many / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {n: f for f, ns in parts.items() for n in ns}}))
    whole, _ = merged(tmp_path / "out", two)
    merge_checkpoints([Part("m", many, 0.5), Part("b", two[1], 0.5)], tmp_path / "of-many")
    same_bits({n: t for file in parts for n, t in load_file(tmp_path / "of-many" / file).items()}, whole)


def test_a_type_of_numbers_may_be_asked_for_and_whole_numbers_keep_theirs(two, tmp_path):
    found, _ = merged(tmp_path / "out", two[:1] * 2, dtype="bfloat16")
    assert found["x"].dtype == torch.bfloat16 and found["ids"].dtype == torch.int64
    with pytest.raises(UserError, match="tensor y of the merge does not fit into torch.float16"):
        merged(tmp_path / "small", two[1:] * 2, dtype="float16")
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("y"), "a has a tensor y, which other has not"),
        (lambda t: t.update(z=torch.ones(1)), "other has a tensor z, which a has not"),
        (lambda t: t.update(y=torch.ones(4)), r"tensor y is \[3\] in a and \[4\] in other"),
        (lambda t: t.update(y=torch.tensor([0.0, float("nan"), 1.0])), "tensor y of other has numbers that are not finite"),
    ],
)
def test_what_differs_in_a_tensor_is_refused_by_its_name_and_nothing_is_written(change, said, two, tmp_path):
    tensors = dict(B)
    change(tensors)
    with pytest.raises(UserError, match=said):
        merged(tmp_path / "out", [two[0], folder(tmp_path / "other", tensors)])
    assert not (tmp_path / "out").exists()


def test_models_that_are_loaded_in_different_ways_are_refused(two, tmp_path):
    with pytest.raises(UserError, match=r"differ in config.json, at text_config.hidden_act"):
        acts = [folder(tmp_path / act, B, {"text_config": {"hidden_act": act}}) for act in ("gelu", "quick_gelu")]
        merged(tmp_path / "out", acts)
    merged(tmp_path / "fine", [two[0], folder(tmp_path / "newer", B, {"transformers_version": "9"})])
    (two[0] / "tokenizer.json").write_text('{"model": {"vocab": {"a": 1}}}')
    (two[1] / "tokenizer.json").write_text('{"model": {"vocab": {"b": 1}}}')
    with pytest.raises(UserError, match="differ in tokenizer.json, at model.vocab.a"):
        merged(tmp_path / "out", two)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda out, two: merged(out, [*two, two[0]], (), "slerp"), "slerp is between two checkpoints, and here are 3"),
        (lambda out, two: merged(out, two, (1,)), "1 weights for 2 checkpoints"),
        (lambda out, two: merged(out, two, (1, -1)), "weights of an average are 0 or more"),
        (lambda out, two: merged(out, two, (1, math.nan)), "a weight is a finite number"),
        (lambda out, two: merged(out, two, (), "task"), "--method task adds to the weights of --base"),
        (lambda out, two: merged(out, two, base=two[0]), "--method task adds to the weights of --base"),
        (lambda out, two: merged(two[1], two), "is there already"),
        (lambda out, two: merged(out, [two[0], two[0].parent]), "holds no model.safetensors"),
    ],
)
def test_what_cannot_be_merged_is_said(call, said, two, tmp_path):
    with pytest.raises(UserError, match=said):
        call(tmp_path / "out", two)


def test_a_file_that_is_no_safetensors_and_an_adapter_are_refused_in_words(two, tmp_path):
    (two[1] / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0no json!")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        merged(tmp_path / "out", two)
    (two[1] / "config.json").unlink()
    (two[1] / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
    with pytest.raises(UserError, match="is a LoRA adapter, whose factors cannot be averaged: .*--adapter"):
        merged(tmp_path / "out", two)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_index_of_weights_is_refused_in_words(index, two, tmp_path):
    (two[1] / "model.safetensors").unlink()
    (two[1] / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json is damaged"):
        merged(tmp_path / "out", two)


def test_a_merged_model_loads_gives_unit_vectors_and_says_what_it_is_made_of(clip_folder, pictures, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(clip_folder, other)
    weights = {
        n: t + 0.02 * torch.randn(t.shape) if t.is_floating_point() else t
        for n, t in load_file(other / "model.safetensors").items()
    }
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    recipes = ({"kind": "clip", "matryoshka": [4, 8]}, {"kind": "clip", "matryoshka": [8, 12]})
    first = tmp_path / "first"
    shutil.copytree(clip_folder, first)
    for path, recipe in zip((first, other), recipes, strict=True):
        (path / "recipe.json").write_text(json.dumps({"recipe": recipe, "identity": "i", "facts": {"loss": 1}}))
        (path / "data.state").write_text("{}")
    _, made = merged(tmp_path / "out", [first, other], (0.6, 0.4))
    retriever = mmret.Retriever.load(tmp_path / "out", "cpu")
    vectors = retriever.encode(list(pictures.values())[:3], ["make it green"] * 3)
    assert np.isfinite(vectors).all() and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    record = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert record["recipe"] == {"kind": "clip", "matryoshka": [8]} and not record["facts"]
    parts = [{"name": p.name, "digest": weights_digest(p), "weight": w} for p, w in ((first, 0.6), (other, 0.4))]
    assert record["merged"] == {"method": "linear", "parts": parts, "base": None}
    assert made.digest == weights_digest(tmp_path / "out") not in [part["digest"] for part in parts]
    assert not (tmp_path / "out" / "data.state").exists(), "of no run"


def test_recipes_and_folders_merge_by_command_and_the_merge_is_measured_by_its_folder(small_lake, tmp_path):
    lake, copy, out = small_lake[0], tmp_path / "copy", tmp_path / "out"
    shutil.copytree(lake / "checkpoints" / "demo", copy)
    shutil.copytree(lake, tmp_path / "lake", ignore=shutil.ignore_patterns(".dagster"))
    run = CliRunner()
    words = ["--lake", str(tmp_path / "lake")]
    weights = ["--weight", "0.7", "--weight", "0.3"]
    done = run.invoke(app, ["merge", *words, "--recipe", "demo", "--checkpoint", str(copy), *weights, "--out", str(out)])
    assert done.exit_code == 0 and done.stdout == f"{out}\n" and "0.7 x demo\n0.3 x " in done.stderr, done.output
    same_bits(*(load_file(path / "model.safetensors") for path in (out, copy)))
    rows = Lake(lake).read("triplets").to_pylist()
    queries = tmp_path / "queries.jsonl"
    asked = [{"reference": r["query_id"], "text": r["texts"][0], "target": r["target_id"]} for r in rows[:20]]
    queries.write_text("".join(json.dumps(row) + "\n" for row in asked))
    measured = [
        json.loads(run.invoke(app, ["evaluate", *words, "--triplets", str(queries), *which, "--json"]).stdout)
        for which in (["--recipe", "demo"], ["--checkpoint", str(out)])
    ]
    assert measured[0]["R@5"] == measured[1]["R@5"] and measured[1]["recipe"] == str(out)
    assert measured[0]["untrained"] == measured[1]["untrained"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--recipe", "a"], "--recipe names a recipe of a lake: add --lake"),
        (["--adapter", "a", "--checkpoint", "b"], "--adapter is made whole by itself"),
        ([], "say which adapter"),
        (["--method", "linear"], "name the checkpoints to merge"),
        (["--adapter", "a", "--lake", "l", "--recipe", "r"], "--adapter and --recipe are two ways to say which adapter"),
        (["--checkpoint", "a", "--checkpoint", "b", "--dtype", "int4"], "no dtype 'int4'"),
        (["--checkpoint", "a", "--checkpoint", "b", "--method", "task", "--base", "nowhere"], "--base nowhere: there is no folder"),
    ],
)
def test_words_that_do_not_go_together_are_refused(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["merge", *words, "--out", "out"])
    assert isinstance(done.exception, UserError) and said in str(done.exception)
