"""Invariants: two gloo processes that share a batch have the gradient of one, for both kinds, with GradCache and without,
also where one of them has nothing to embed; their run, killed and resumed, ends in bit-equal weights; the checkpoint is that
of one process up to rounding; every item is somebody's share."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from mmret.hashing import fingerprint
from mmret.retriever.train.loop import train
from mmret.retriever.train.parallel import Group, _buckets
from tests.retriever.asked_folders import qwen3_vl_embedding
from tests.retriever.mixtures import ALL, mixture
from tests.retriever.mllm_folders import qwen2_vl
from tests.retriever.runs import a_trainer, ring, small

ROOT = Path(__file__).resolve().parents[2]
CASES = {
    "clip": {"kind": "clip", "chunk_size": 3, "batch_size": 7, "steps": 5, "evaluate_every": 5, "matrix_learning_rate": 1e-3}
    | {"average_from": 0.2},
    "clip_at_once": {"kind": "clip", "trainable": "text+blocks", "batch_size": 7},
    "one_text": {"kind": "clip", "trainable": "text", "batch_size": 4},
    "nested": {"kind": "clip", "chunk_size": 3, "batch_size": 7, "matryoshka": [4, 8]},
    "mllm": {"kind": "mllm", "chunk_size": 2, "batch_size": 5, "mined_negatives": 1, "steps": 3, "average_from": 0.0},
    "nested_mllm": {"kind": "mllm", "chunk_size": 2, "batch_size": 5, "mined_negatives": 1, "matryoshka": [4, 8]},
    "tasks": {"kind": "clip", "chunk_size": 3, "batch_size": 9, "steps": 4, "tasks": ALL, "task_batches": "mixed"}
    | {"swapped_texts": 0.5},
    "tasks_mllm": {"kind": "mllm", "chunk_size": 2, "batch_size": 6, "mined_negatives": 1, "tasks": ALL, "task_batches": "mixed"},
    "images_alone": {"kind": "clip", "batch_size": 5, "tasks": {"image_to_image": 1}},
    "texts_alone": {"kind": "clip", "batch_size": 5, "tasks": {"text_to_text": 1}, "trainable": "text+blocks"},
    "grouped": {"kind": "clip", "chunk_size": 3, "batch_size": 9, "steps": 4, "texts_at_once": "picture", "batch_neighbours": 3},
    "triplets_mllm": {"kind": "mllm", "chunk_size": 2, "batch_size": 6, "mined_negatives": 1, "texts_at_once": "triplet"},
    "in_turn": {"kind": "clip", "chunk_size": 3, "batch_size": 6, "steps": 6, "tasks": {"image_to_image": 1, "text_to_text": 1}}
    | {"ema_decay": 0.7},
    "margin": {"kind": "clip", "chunk_size": 3, "batch_size": 9, "mask_margin": 0.02, "matryoshka": [4, 8], "hardness": 2.0}
    | {"swapped_texts": 0.5},
    "agreement": {
        "kind": "clip",
        "chunk_size": 3,
        "batch_size": 9,
        "texts_at_once": "triplet",
        "agreement": 2.0,
        "mask_margin": 0.02,
    },
    "agreement_mllm": {"kind": "mllm", "chunk_size": 2, "batch_size": 6, "mined_negatives": 1, "mask_margin": 0.02}
    | {"texts_at_once": "picture", "agreement": 1.0, "reverse": 0.5},
    "tokens": {"kind": "clip", "chunk_size": 4, "batch_size": 9, "chunk_tokens": 30},
    "tokens_mllm": {"kind": "mllm", "batch_size": 6, "mined_negatives": 1, "texts_at_once": "triplet", "chunk_tokens": 160},
}
WAYS = {
    "ddp": ("clip", "clip_at_once", "one_text", "mllm", "tasks", "in_turn", "tokens", "tokens_mllm"),
    "fsdp": ("clip", "clip_at_once", "one_text", "mllm", "tasks_mllm", "texts_alone", "in_turn", "tokens", "tokens_mllm"),
}
CASES |= {
    f"{case}_{way}": {**CASES[case], "parallel": way, "matrix_learning_rate": None} for way, cases in WAYS.items() for case in cases
}
KEPT = {f"kept_{case}": case for case in ("clip", "mllm", "tokens", "in_turn", "clip_ddp", "mllm_ddp", "in_turn_ddp", "clip_fsdp")}
"""Cases that keep their activations, and those whose bits theirs are."""
CASES |= {kept: {**CASES[case], "keep_activations": "always"} for kept, case in KEPT.items()}
WHOLE_RUNS = {
    "clip": "model.safetensors",
    "mllm": "adapter_model.safetensors",
    "tasks": "model.safetensors",
    "grouped": "model.safetensors",
    "clip_fsdp": "model.safetensors",
    "mllm_fsdp": "adapter_model.safetensors",
    "in_turn_ddp": "model.safetensors",
    "in_turn_fsdp": "model.safetensors",
}
"""Cases whose whole run is compared, and the file of their weights."""
GOES_ON_BY = {"in_turn_fsdp": "sum", "in_turn_ddp": "fsdp"}
"""The other way by which a killed run is finished."""
TABLES = {
    "one_text": "same_text",
    "tokens": "one_long",
    "tokens_mllm": "one_long",
    **dict.fromkeys(("tasks", "tasks_mllm", "images_alone", "texts_alone", "in_turn"), "mixture"),
}


def without_way(case: str) -> str:
    return case.removeprefix("kept_").removesuffix("_ddp").removesuffix("_fsdp")


def table_of(case: str) -> str:
    return TABLES.get(without_way(case), "triplets")


def a_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def shared(clip_folder, pictures, triplets, tmp_path_factory):
    """The folder two processes have written into, and each case's recipe, triplets and base."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "pictures").mkdir()
    for image_id, data in pictures.items():
        (folder / "pictures" / image_id).write_bytes(data)
    column = triplets.schema.get_field_index("texts")
    same = triplets.set_column(column, "texts", pa.array([["no hat"]] * len(triplets), triplets.schema.field("texts").type))
    texts = [["no hat " * 9] if n % 5 == 0 else own for n, own in enumerate(triplets["texts"].to_pylist())]
    long = triplets.set_column(column, "texts", pa.array(texts, triplets.schema.field("texts").type))
    tables = {"triplets": triplets, "same_text": same, "mixture": mixture(triplets), "one_long": long}
    for name, table in tables.items():
        pq.write_table(table, folder / name)
    bases = {"clip": clip_folder, "mllm": qwen2_vl(folder / "qwen2_vl"), "tokens_mllm": qwen3_vl_embedding(folder / "qwen3_vl")}
    made, cases = {}, {}
    for name, changes in CASES.items():
        recipe = small(**changes)
        base = bases.get(without_way(name), bases[recipe.kind])
        made[name] = (recipe, tables[table_of(name)], base)
        cases[name] = {
            "recipe": recipe.model_dump(mode="json"),
            "base": str(base),
            "triplets": table_of(name),
            "whole_run": name in WHOLE_RUNS,
            "goes_on_by": GOES_ON_BY.get(name, recipe.parallel),
        }
    (folder / "cases.json").write_text(json.dumps(cases))
    port, running = a_port(), []
    for rank in range(2):
        running.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.retriever.two_processes", str(folder)],
                cwd=ROOT,
                stderr=subprocess.PIPE,
                text=True,
                env={
                    **os.environ,
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": "2",
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "OMP_NUM_THREADS": "1",
                    "CUDA_VISIBLE_DEVICES": "",
                },
            )
        )
    said = [process.communicate(timeout=280)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(text[-1500:] for text in said)
    return folder, made


@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_gradient_of_one(shared, load, tmp_path, case):
    folder, made = shared
    recipe, triplets, base = made[case]
    alone = a_trainer(recipe, base, triplets, load, tmp_path)
    alone.embedder.model.train()
    batch = alone.data.batch(0)
    loss = alone.backward(batch, alone.embedder.read(batch))
    expected = {n: p.grad for n, p in alone.embedder.model.named_parameters() if p.grad is not None}
    scale = max(float(g.abs().max()) for g in expected.values())
    for rank in range(1 if recipe.parallel == "fsdp" else 2):  # the first one gathers what is divided
        got = torch.load(folder / f"{case}-{rank}.pt")
        torch.testing.assert_close(got["loss"], loss, rtol=1e-6, atol=0)
        assert got["gradients"].keys() == expected.keys()
        for name, gradient in expected.items():
            # norms and softmax of an LLM are float32 whatever its weights, so a row's rounding depends on how far it is padded
            small = (5e-7 if recipe.kind == "mllm" else 1e-7) * scale
            torch.testing.assert_close(got["gradients"][name], gradient, rtol=1e-5, atol=small)


@pytest.fixture(scope="module")
def alone(shared, load, tmp_path_factory):
    """The folder of a case's run by one process, and its facts: one for all ways of exchanging what it exchanges with nobody."""
    runs: dict[str, tuple[Path, dict]] = {}

    def of(case: str) -> tuple[Path, dict]:
        recipe, triplets, base = shared[1][case]
        if (key := fingerprint(recipe.decisive(), table_of(case))) not in runs:
            folder = tmp_path_factory.mktemp("alone") / "made"
            runs[key] = folder, train(recipe, triplets, load, base, folder, neighbours=ring(triplets))
        return runs[key]

    return of


@pytest.mark.parametrize("case, file", WHOLE_RUNS.items())
def test_two_processes_that_were_killed_end_in_bit_equal_weights_near_those_of_one(shared, alone, case, file):
    folder, (made, facts) = shared[0], alone(case)
    whole, broken = load_file(folder / case / file), load_file(folder / f"{case}-broken" / file)
    assert whole.keys() == broken.keys()
    for name in whole:
        assert torch.equal(whole[name], broken[name]) or case in GOES_ON_BY, name
        assert (whole[name] - broken[name]).abs().mean() < 1e-5, name
    of_one = load_file(made / file)
    for name in of_one:  # Adam's first steps move by the sign of a gradient, however small: so not by rtol
        assert (whole[name] - of_one[name]).abs().mean() < 1e-4, name
    record = json.loads((folder / case / "recipe.json").read_text())
    assert record["facts"]["loss"] == pytest.approx(facts["loss"], rel=1e-3)
    assert not list(folder.glob("*.work"))


@pytest.mark.parametrize("kept, case", KEPT.items())
def test_each_of_two_processes_that_keep_their_activations_has_the_bits_of_two_that_embed_twice(shared, kept, case):
    folder = shared[0]
    for rank in range(1 if case.endswith("_fsdp") else 2):
        once, twice = (torch.load(folder / f"{name}-{rank}.pt") for name in (kept, case))
        assert torch.equal(once["loss"], twice["loss"]) and once["gradients"].keys() == twice["gradients"].keys()
        for name, gradient in twice["gradients"].items():
            assert torch.equal(once["gradients"][name], gradient), name
        assert twice["made_once"] == 0 and (once["made_once"] > 0) == (not case.endswith("_fsdp"))


@pytest.mark.parametrize("total", [0, 1, 2, 7, 64])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_every_item_is_one_processs_share(total, size):
    items = [i for rank in range(size) for i in range(total)[Group(rank, size).share(total)]]
    assert items == list(range(total))


def test_buckets_keep_dtypes_apart_and_lose_nothing(monkeypatch):
    monkeypatch.setattr("mmret.retriever.train.parallel.BUCKET", 10)
    tensors = [torch.zeros(4), torch.zeros(5), torch.zeros(30), torch.zeros(2, dtype=torch.float64), torch.zeros(1)]
    runs = list(_buckets(tensors))
    assert [[len(t) for t in run] for run in runs] == [[4, 5], [30], [2], [1]]
