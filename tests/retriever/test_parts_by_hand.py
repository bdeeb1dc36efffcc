"""What a recipe trains and at which rate, what decides a checkpoint's digest, what a query is told, what a log's line says: each
where it changes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mmret import progress
from mmret.encode.last_block import one_token
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.retriever import embed as embedding
from mmret.retriever.embed import EmbedOptions, embed
from mmret.retriever.models.checkpoint import weights_digest
from mmret.retriever.models.clip import ClipRetriever, flatten_transparency
from mmret.retriever.models.load import TEXT_INSTRUCTION, Retriever, embedding_digest, model_type, query_options
from mmret.retriever.models.mllm_prompts import Prompt, prompt_of
from mmret.retriever.train.clip import ClipEmbedder
from mmret.retriever.train.data import TrainingSet
from mmret.retriever.train.log import SCHEMA, TAGS, log_line, peak_memory, read_log, write_log
from mmret.retriever.train.loop import train
from mmret.retriever.train.mllm import _chunks
from mmret.retriever.train.parallel import Group
from mmret.retriever.train.stage import TrainingJob
from mmret.settings import Recipe, load_profile

BLOCK = "vision_model.encoder.layers.{}."
PARTS = {
    "text": set(),
    "text+projection": {"visual_projection."},
    "text+blocks": {"visual_projection.", "vision_model.post_layernorm.", BLOCK.format(1)},
    "all": {"visual_projection.", "vision_model."},
}


def embedder(clip_folder, **changes) -> ClipEmbedder:
    return ClipEmbedder(Recipe(**{"learning_rate": 0.25, "chunk_size": 4, **changes}), ClipRetriever.load(clip_folder, "cpu"))


@pytest.mark.parametrize("trainable", PARTS)
def test_each_level_trains_its_part_of_the_image_tower_and_the_whole_text_tower_and_nothing_else(clip_folder, trainable):
    made = embedder(clip_folder, trainable=trainable)
    names = dict(made.model.named_parameters())
    expected = {n for n in names if n.startswith(("text_model.", "text_projection.", *PARTS[trainable]))}
    assert {n for n, p in names.items() if p.requires_grad} == expected
    (text, _), (image, _) = made.parameter_groups()
    assert len({id(p) for p in (*text, *image)}) == len(text) + len(image) == len(expected)


def test_more_blocks_than_there_are_are_all_blocks_but_not_what_lies_before_them(clip_folder):
    made = embedder(clip_folder, trainable="text+blocks", image_blocks=9)
    trained = {n for n, p in made.model.named_parameters() if p.requires_grad}
    assert any(n.startswith(BLOCK.format(0)) for n in trained) and not any("vision_model.embeddings" in n for n in trained)


def test_the_text_tower_has_a_rate_of_its_own_where_the_recipe_gives_one(clip_folder):
    assert [rate for _, rate in embedder(clip_folder).parameter_groups()] == [0.25, 0.25]
    (text, of_text), (_, of_image) = embedder(clip_folder, text_learning_rate=0.5).parameter_groups()
    assert (of_text, of_image) == (0.5, 0.25)
    assert len(text) > 30


def test_the_class_token_of_a_block_has_dropout_in_training_alone(clip_folder):
    block = ClipRetriever.load(clip_folder, "cpu").model.vision_model.encoder.layers[1]
    hidden = torch.randn(2, 17, 32, generator=torch.Generator().manual_seed(0))
    block.self_attn.dropout = 0.5
    with torch.no_grad():
        expected = block.eval()(hidden, None)[:, 0]
        torch.testing.assert_close(one_token(block, hidden), expected, atol=1e-5, rtol=1e-4)
        block.train()
        assert not torch.allclose(one_token(block, hidden), expected, atol=1e-3)


def test_texts_cut_while_measuring_are_not_counted_as_texts_of_the_training(clip_folder):
    made = embedder(clip_folder)
    made.encode([np.zeros((8, 8, 3), np.uint8)], ["green " * 100])
    assert made.retriever.truncated == 0
    made.retriever.tokens(["green " * 100])
    assert made.retriever.truncated == 1


def test_a_step_reads_this_processs_share_of_its_pictures(clip_folder, triplets, load, tmp_path):
    recipe = Recipe(batch_size=6, mined_negatives=1, chunk_size=4)
    batch, shares = TrainingSet(triplets, recipe).batch(0), []
    for rank in range(2):
        made = ClipEmbedder(recipe, ClipRetriever.load(clip_folder, "cpu"), Group(rank, 2))
        made.open(TrainingSet(triplets, recipe), load, tmp_path)
        shares.append(made.read(batch))
    whole = ClipEmbedder(recipe, ClipRetriever.load(clip_folder, "cpu"))
    whole.open(TrainingSet(triplets, recipe), load, tmp_path)
    assert torch.equal(torch.cat(shares), whole.read(batch)) and len(whole.read(batch)) == len(batch.images()[0])


def test_rows_are_cut_into_chunks_of_prompts_and_pictures_and_none_is_lost():
    rows = [(f"p{n}", n) for n in range(5)]
    assert _chunks(rows, 2) == [(["p0", "p1"], [0, 1]), (["p2", "p3"], [2, 3]), (["p4"], [4])] and _chunks([], 2) == []


# -- folders ---------------------------------------------------------------------------------------------------------------


def test_a_digest_is_of_weights_configuration_and_tokeniser_by_name_and_content_and_of_no_record(clip_folder, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "a")
    first = weights_digest(folder)
    assert weights_digest(shutil.copytree(folder, tmp_path / "elsewhere")) == first
    for name in ("recipe.json", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "card.md"):
        (folder / name).write_text("x")
        assert weights_digest(folder) == first, name
    seen = {first}
    for name in ("extra.txt", "extra.json", "extra.bin", "extra.safetensors"):
        (folder / name).write_text("x")
        seen.add(weights_digest(folder))
    (folder / "extra.txt").write_text("y")
    seen.add(weights_digest(folder))
    (folder / "extra.txt").rename(folder / "other.txt")
    assert len({*seen, weights_digest(folder)}) == 7


def test_a_query_of_an_mllm_is_told_what_it_was_trained_with_or_the_papers_and_clip_nothing(clip_folder, tmp_path):
    assert query_options(clip_folder) == query_options(clip_folder, composed=False) == {}
    kind = next(k for k in ("qwen2_vl", "llava_next") if prompt_of(k))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    assert model_type(tmp_path) == kind
    assert query_options(tmp_path) == {"instruction": Recipe().instruction}
    assert query_options(tmp_path, composed=False) == {"instruction": TEXT_INSTRUCTION}
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": {"instruction": "find it"}}))
    assert query_options(tmp_path) == {"instruction": "find it"}
    assert embedding_digest(clip_folder) == weights_digest(clip_folder) and embedding_digest(tmp_path) != weights_digest(tmp_path)
    with pytest.raises(UserError, match="no dtype 'float8'"):
        Retriever.load(clip_folder, dtype="float8")


def test_a_prompt_has_the_parts_that_are_there_and_an_empty_text_counts_only_alone():
    prompt = Prompt("Q[{instruction}]", "C", "T[{text}]", "I", "E", 8)
    assert prompt.fill("a", True, "x") == "Q[x]T[a]IE" and prompt.fill("a") == "CT[a]E" and prompt.fill(image=True) == "CIE"
    assert (
        prompt.fill("", True, "x") == "Q[x]IE"
        and prompt.fill("", False, "x") == "Q[x]T[]E"
        and prompt.fill("", instruction="") == "Q[]T[]E"
    )
    with pytest.raises(UserError, match="no MLLM prompt for models of type 'none'"):
        prompt_of("none")


@pytest.mark.parametrize("mode, colour, seen", [("RGBA", (10, 20, 30, 0), 255), ("LA", (10, 0), 255), ("RGB", (10, 10, 10), 10)])
def test_a_picture_that_is_given_open_lies_on_white_too(mode, colour, seen):
    from PIL import Image

    assert flatten_transparency(Image.new(mode, (2, 2), colour)).getpixel((0, 0)) == (seen,) * 3


# -- the log -----------------------------------------------------------------------------------------------------------------


def test_a_log_comes_back_as_it_was_written_and_one_of_before_has_nulls(tmp_path):
    rows = [{"step": n, "loss": float(n), "recall_1": 5.0 if n == 2 else None} for n in (1, 2)]
    write_log(rows, tmp_path)
    found = read_log(tmp_path)
    assert found.schema.equals(SCHEMA) and found["loss"].to_pylist() == [1, 2] and found["recall_1"].to_pylist() == [None, 5]
    pq.write_table(found.select(["loss", "step"]), tmp_path / "old.parquet")
    old = read_log(tmp_path / "old.parquet")
    assert old.schema.equals(SCHEMA) and old["step"].to_pylist() == [1, 2] and old["seconds"].null_count == 2
    assert set(TAGS) == set(SCHEMA.names) - {"step", "seconds"}


def test_a_line_of_the_log_has_its_figures_and_recalls_where_they_were_measured():
    row = {"step": 7, "loss": 1.23456, "learning_rate": 0.00012, "gradient_norm": 3.14159, "samples_per_second": 1234.5,
           "memory_bytes": 3 * 2**29}  # fmt: skip
    assert log_line(row) == "step 7: loss 1.235, learning rate 1.20e-04, gradient norm 3.14, 1,234 samples/s, 1.5 GiB"
    assert log_line(row | {"recall_1": 1.25, "recall_5": None, "recall_10": 40.0}).endswith("held-out R@1 1.2, held-out R@10 40.0")
    assert 2**25 < peak_memory() < 2**40


# -- embedding, jobs ---------------------------------------------------------------------------------------------------------


def test_parts_batches_and_counts_of_an_embedding_are_of_the_rows_there_are(clip_folder, tmp_path, monkeypatch):
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": f"no hat {n}" if n != 3 else " "}) + "\n" for n in range(7)))
    asked = []
    real = ClipRetriever.encode
    monkeypatch.setattr(
        ClipRetriever, "encode", lambda self, i, t, b, **k: asked.append((i, len(t), b)) or real(self, i, t, b, **k)
    )
    options = EmbedOptions("text", batch_size=2, part_rows=5, device="cpu")
    counts = embed([str(source)], clip_folder, tmp_path / "out", options)
    assert counts == {"rows": 7, "embedded": 6, "truncated": 0, "kept": 0, "no_text": 1}
    assert asked == [(None, 2, 2), (None, 1, 2), (None, 1, 2), (None, 2, 2)]
    assert [pq.read_metadata(p).num_rows for p in sorted((tmp_path / "out").glob("*.parquet"))] == [5, 2]
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(UserError, match="hold no row|no rows|empty"):
        embed([str(tmp_path / "none.jsonl")], clip_folder, tmp_path / "other", options)
    assert not (tmp_path / "other").exists()


def test_a_part_is_kept_where_device_and_batch_differ_and_made_anew_where_what_is_embedded_does(clip_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "_finish", lambda *a: None)  # as if it died before the last step
    source = tmp_path / "texts.jsonl"
    source.write_text('{"text": "no hat"}\n')
    first = EmbedOptions("text", part_rows=5, device="cpu")
    kept = [
        embed([str(source)], clip_folder, tmp_path / "out", options)["kept"]
        for options in (first, replace(first, batch_size=9), replace(first, device="auto"), replace(first, part_rows=6),
                        replace(first, part_rows=6, dtype="float16"), replace(first, part_rows=6, dtype="float16", query=True))
    ]  # fmt: skip
    assert kept == [0, 1, 1, 0, 0, 0]


def test_a_job_has_the_settings_of_its_profile(tmp_path):
    profile = load_profile("demo")
    name = next(iter(profile.recipes))
    job = TrainingJob.of(Lake(tmp_path), profile, name)
    assert (job.recipe, job.licences, job.evaluate) == (profile.recipes[name], profile.licences, profile.evaluate)
    assert job.folder == tmp_path / "checkpoints" / name


def test_parts_of_a_source_that_was_longer_before_are_not_in_what_is_written(clip_folder, tmp_path, monkeypatch):
    source, options = tmp_path / "texts.jsonl", EmbedOptions("text", part_rows=2, device="cpu")
    source.write_text('{"text": "no hat"}\n' * 5)
    with monkeypatch.context() as patch:
        patch.setattr(embedding, "_finish", lambda *a: None)  # as if it died before the last step
        assert embed([str(source)], clip_folder, tmp_path / "out", options)["rows"] == 5
    source.write_text('{"text": "no hat"}\n' * 2)
    counts = embed([str(source)], clip_folder, tmp_path / "out", options)
    assert counts == {"rows": 2, "embedded": 2, "truncated": 0, "kept": 2}
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["part-000000.parquet"]


def test_a_checkpoint_is_trained_again_for_other_rows_another_base_or_other_weights_and_for_nothing_else(
    clip_folder, triplets, load, tmp_path
):
    class Started(Exception):
        pass

    def report(task, done, total, note=""):
        raise Started("it trains")

    plain = Recipe(steps=1, batch_size=4, mined_negatives=0, trainable="text", chunk_size=8)
    facts = train(plain, triplets, load, clip_folder, tmp_path / "out")
    base = shutil.copytree(clip_folder, tmp_path / "base")
    with progress.reporting(report):
        for change in ({"log_every": 3}, {"checkpoint_every": 9}, {"held_out_queries": 5}):
            assert train(plain.model_copy(update=change), triplets, load, base, tmp_path / "out") == facts
        (base / "extra.json").write_text("{}")
        for recipe, rows, folder in (
            (plain, triplets.slice(1), clip_folder),
            (plain, triplets, base),
            (plain.model_copy(update={"seed": 5}), triplets, clip_folder),
        ):
            with pytest.raises(Started, match="it trains"):
                train(recipe, rows, load, folder, tmp_path / "out")


@pytest.mark.parametrize("what, query, asked, told", [
    ("composed", True, [True], {"instruction": "x"}), ("text", True, [False], {"instruction": "x"}), ("text", False, [], {}),
    ("image", True, [], {"instruction": "alike"}), ("image", False, [], {}),
])  # fmt: skip
def test_rows_are_embedded_as_queries_where_asked_for_and_as_candidates_else(
    tmp_path, pictures, monkeypatch, what, query, asked, told
):
    from mmret.retriever.models import kinds
    from mmret.retriever.models import load as models

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(next(iter(pictures.values())))
    (tmp_path / "in" / "captions.jsonl").write_text(json.dumps({"image": "a.png", "caption": "no hat"}) + "\n")
    calls, composed = [], []

    class Fake:
        dim, truncated = 2, 0

        def encode(self, images, texts, batch_size, **keywords):
            calls.append(((images is None), texts, keywords))
            return np.ones((1, 2), np.float32)

    monkeypatch.setattr(models.Retriever, "load", staticmethod(lambda *_: Fake()))
    monkeypatch.setattr(models, "embedding_digest", str)
    monkeypatch.setattr(kinds, "picture_options", lambda folder: {"instruction": "alike"})
    monkeypatch.setattr(models, "query_options", lambda folder, both: composed.append(both) or {"instruction": "x"})
    embed([str(tmp_path / "in" / "captions.jsonl")], "model", tmp_path / "out", EmbedOptions(what, query=query, device="cpu"))
    assert calls == [(what == "text", None if what == "image" else ["no hat"], told)] and composed == asked
