"""Invariants of learning from a teacher: the term is KL(teacher || student) over each row's target and own hard negatives, alone;
its gradient in chunks is the full batch's; scores are looked up by content, once made they are not made again, and a teacher
of other weights makes others; a recipe without a teacher trains as before."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from mmret.errors import UserError
from mmret.lake import Lake
from mmret.retriever.models.clip_reranker import ClipReranker
from mmret.retriever.models.kinds import reranker_digest
from mmret.retriever.train import gradcache, trainer
from mmret.retriever.train.data import TrainingSet
from mmret.retriever.train.distillation import Lesson, TeacherScores, distillation_loss, score_key
from mmret.retriever.train.loop import train
from mmret.retriever.train.teach import teach, teacher_scores
from mmret.schemas import TEACHER_SCORES
from mmret.settings import Recipe, RerankerSettings
from tests.retriever.mllm_folders import qwen2_vl
from tests.retriever.runs import a_trainer, small

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def lake(clip_folder, tmp_path):
    """A lake with a reranker's checkpoint that has learnt something."""
    reranker = ClipReranker.begin(clip_folder, RerankerSettings(grid=2, heads=2), seed=1)
    torch.nn.init.normal_(reranker.model.head.weight, std=0.5, generator=torch.Generator().manual_seed(2))
    (tmp_path / "lake" / "checkpoints" / "judge").mkdir(parents=True)
    reranker.save(tmp_path / "lake" / "checkpoints" / "judge")
    return Lake(tmp_path / "lake")


def scores_of(triplets: pa.Table, model: str = "m") -> TeacherScores:
    """Made-up scores for every pair there can be."""
    rng, rows = np.random.default_rng(1), []
    for row in triplets.to_pylist():
        for candidate in dict.fromkeys([row["target_id"], row["query_id"], *row["hard_negatives"]]):
            rows += [
                {"query_id": row["query_id"], "text": text, "candidate_id": candidate, "score": float(rng.normal())}
                for text in row["texts"]
            ]
    unique = {(r["query_id"], r["text"], r["candidate_id"]): r for r in rows}
    return TeacherScores(model, [pa.Table.from_pylist(list(unique.values()))])


def test_the_term_is_the_divergence_over_a_rows_own_candidates(triplets):
    recipe = small("clip", batch_size=9, mined_negatives=3)
    data, teacher = TrainingSet(triplets, recipe), scores_of(triplets)
    batch = data.batch(1)
    lesson = teacher.lesson(batch, data.images)
    generator = torch.Generator().manual_seed(4)
    queries = normalize(torch.randn(9, 8, generator=generator, dtype=torch.float64), dim=1)
    candidates = normalize(torch.randn(len(batch.candidates), 8, generator=generator, dtype=torch.float64), dim=1)
    divergences = []
    for row in range(9):
        own = [row, *(9 + np.flatnonzero(batch.negative_rows == row))]
        assert lesson.places[row][lesson.places[row] >= 0].tolist() == own
        student = torch.log_softmax(candidates[own] @ queries[row] / 0.1, dim=0)
        taught = torch.softmax(lesson.scores[row][: len(own)].double() / 2, dim=0)
        divergences.append(float((taught * (taught.log() - student)).sum()))
    assert float(distillation_loss(queries, candidates, lesson, 0.1, 2.0)) == pytest.approx(np.mean(divergences))


def test_rows_that_the_teacher_has_not_seen_add_nothing():
    queries = normalize(torch.randn(2, 4, dtype=torch.float64), dim=1).requires_grad_()
    lesson = Lesson(torch.tensor([[0, -1], [-1, -1]]), torch.zeros(2, 2))
    loss = distillation_loss(queries, queries.detach(), lesson, 0.1, 1.0)
    loss.backward()
    assert float(loss.detach()) == 0 and float(queries.grad.abs().max()) == 0


@pytest.mark.parametrize("kind", ["clip", "mllm"])
def test_the_cached_gradient_with_a_teacher_is_the_full_batchs(kind, clip_folder, triplets, load, tmp_path, monkeypatch):
    base = clip_folder if kind == "clip" else qwen2_vl(tmp_path / "qwen2_vl")

    def one_graph(parts, loss_of, *group):
        loss = loss_of(*(torch.cat([part.encode(chunk) for chunk in part.chunks]) for part in parts))
        loss.backward()
        return loss.detach()

    def gradient(backward, taught=True):
        made = a_trainer(small(kind, batch_size=7, mined_negatives=3, chunk_size=3), base, triplets, load, tmp_path / "work")
        for name, parameter in made.embedder.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
        made.teacher = scores_of(triplets) if taught else None
        monkeypatch.setattr(trainer, "cached_backward", backward)
        batch = made.data.batch(0)
        loss = made.backward(batch, made.embedder.read(batch))
        return float(loss), {n: p.grad for n, p in made.embedder.model.named_parameters() if p.grad is not None}

    full, cached, plain = gradient(one_graph), gradient(gradcache.cached_backward), gradient(one_graph, taught=False)
    assert cached[0] == pytest.approx(full[0], rel=1e-6) and plain[0] < full[0]
    scale = max(float(g.abs().max()) for g in full[1].values())
    for name, expected in full[1].items():
        torch.testing.assert_close(cached[1][name], expected, rtol=1e-5, atol=1e-7 * scale)
    assert any(not torch.allclose(plain[1][name], expected, rtol=1e-3) for name, expected in full[1].items())


def test_scores_are_made_once_and_anew_for_other_weights(lake, triplets, load):
    model, made, _ = teach(lake, "judge", triplets, load)
    rows = lake.read("teacher_scores").to_pylist()
    keys = {(r["pair_id"], r["text"], r["candidate_id"]) for r in rows}
    wanted = {
        (t["pair_id"], text, candidate)
        for t in triplets.to_pylist()
        if t["split"] == "train"
        for text in t["texts"]
        for candidate in (t["target_id"], t["query_id"], *t["hard_negatives"])
    }
    assert keys == wanted and made == len(rows) == len(keys) and {r["model"] for r in rows} == {model}
    assert teach(lake, "judge", triplets, load)[:2] == (model, 0)
    assert len(teacher_scores(lake, "judge", triplets, load).keys) <= len(rows)
    folder = lake.root / "checkpoints" / "judge"
    other = ClipReranker.load(folder)
    with torch.no_grad():
        other.model.head.bias += 1
    other.save(folder)
    again, remade, _ = teach(lake, "judge", triplets, load)
    assert again != model and remade == made and {r["model"] for r in lake.read("teacher_scores").to_pylist()} == {again}


def peak_of(work) -> tuple[object, int]:
    """What ``work`` gives, and the most bytes that Python and numpy held for it."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def many_scores(count: int, model: str, per_pair: int = 20) -> pa.Table:
    """``per_pair`` candidates for each of ``count / per_pair`` questions, all of one partition."""
    pairs = [f"0{n // per_pair:031x}" for n in range(count)]
    candidates = [f"{n % per_pair:032x}" for n in range(count)]
    columns = [["judge"] * count, pairs, pairs, ["make it green"] * count, candidates, np.arange(count, dtype=np.float32)]
    return pa.table([*columns, [model] * count], schema=TEACHER_SCORES)


def test_looking_scores_up_takes_a_few_bytes_a_score(lake):
    count = 60_000
    rows = many_scores(count, "m")
    scores, peak = peak_of(lambda: TeacherScores("m", (rows.slice(n, 5_000) for n in range(0, count, 5_000))))
    assert len(scores.keys) == count and peak < 100 * count
    key = score_key(f"0{7:031x}", "make it green", f"{3:032x}")
    assert scores.scores[np.searchsorted(scores.keys, np.uint64(key))] == 7 * 20 + 3


def test_what_is_scored_already_is_told_with_a_few_bytes_a_score(lake):
    count, model = 40_000, reranker_digest(lake.root / "checkpoints" / "judge")
    rows = many_scores(count, model)
    lake.write("teacher_scores", "judge-0", rows, model)
    first = rows.take(np.arange(0, count, 20))
    negatives = [f"{n:032x}" for n in range(1, 20)]
    triplets = pa.table(
        {
            "pair_id": first["pair_id"],
            "query_id": first["query_id"],
            "target_id": first["candidate_id"],
            "texts": [["make it green"]] * len(first),
            "hard_negatives": pa.array([negatives] * len(first), pa.list_(pa.string())),
            "split": ["train"] * len(first),
        }
    )
    # the query itself is a candidate too, and those scores are missing
    kept = lake.read("teacher_scores", "judge-0")
    own = kept.filter(pc.equal(kept["candidate_id"], f"{0:032x}"))
    own = own.set_column(4, "candidate_id", own["query_id"])
    lake.write("teacher_scores", "judge-0", pa.concat_tables([kept, own]), model)
    (same, made, _), peak = peak_of(lambda: teach(lake, "judge", triplets, lambda ids: {}))
    assert (same, made) == (model, 0) and peak < 300 * count


def test_a_stopped_teacher_goes_on_behind_the_partitions_it_has_written(lake, triplets, load):
    calls = []

    def failing(ids):
        calls.append(ids)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return load(ids)

    with pytest.raises(KeyboardInterrupt):
        teach(lake, "judge", triplets, failing)
    before = len(lake.read("teacher_scores"))
    _, made, _ = teach(lake, "judge", triplets, load)
    assert before > 0 and made == len(lake.read("teacher_scores")) - before


def test_a_taught_run_ends_at_other_weights_and_without_a_teacher_nothing_changes(clip_folder, lake, triplets, load, tmp_path):
    plain, taught = small("clip"), small("clip", teacher="judge", distillation=5.0)
    train(plain, triplets, load, clip_folder, tmp_path / "plain")
    train(taught, triplets, load, clip_folder, tmp_path / "taught", teacher=teacher_scores(lake, "judge", triplets, load))
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "taught"))
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert not {"teacher", "distillation", "teacher_temperature", "reranker", "retriever"} & plain.decisive().keys()
    assert {"teacher", "distillation"} <= taught.decisive().keys()


def test_a_teacher_has_a_checkpoint_and_a_reranker_has_none(lake, triplets, load):
    with pytest.raises(UserError, match="has no checkpoint"):
        teach(lake, "nobody", triplets, load)
    with pytest.raises(ValueError, match="a reranker has no teacher"):
        Recipe.model_validate({"kind": "reranker", "teacher": "judge"})
