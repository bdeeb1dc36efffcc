"""Invariants: prompts of one picture have the features and the gradient of prompts by themselves, whatever the family and whether
their text stands before the picture or behind it; the vision tower sees each picture once, and the language model reads once what
the prompts begin with; a recipe that shows one text at a time takes the old path."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mmret.retriever.models.kinds import asked_of
from mmret.retriever.models.mllm import MllmRetriever
from mmret.retriever.train import gradcache, trainer
from mmret.retriever.train.chunks import Limits
from mmret.retriever.train.shared_pictures import SharedPictures
from tests.retriever.asked_folders import TEMPLATE, with_modules
from tests.retriever.mllm_folders import EVERY_FAMILY
from tests.retriever.runs import a_trainer, small
from tests.retriever.test_cached_gradient import close, one_graph
from tests.retriever.test_recipe_settings import assert_close

TEXTS = ["make it green", "a thing that is different in way", "0 1 2 3", "make it larger", "a", "with a darker tone", "make"]
PICTURES = [0, 0, 1, 0, None, 1, 2]
BEHIND = {
    "template": "{{ '<s>' }}" + TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>"),
    "query": "find it",
    "max_pixels": 1024,
}
"""How a LLaVA is asked with its picture before the text."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each family, by its own prompt (the text before the picture) and by a chat template (the picture before the text)."""
    root = tmp_path_factory.mktemp("families")
    made = {name: build(root / name) for name, build in EVERY_FAMILY.items()}
    for name, build in EVERY_FAMILY.items():
        folder = build(root / f"{name}-chat")
        if name == "llava_next":
            (folder / "asked.json").write_text(json.dumps(BEHIND))
        else:
            with_modules(folder, {"pooling_mode": "lasttoken"})
        made[f"{name}-chat"] = folder
    return made


def prompts_of(reader: MllmRetriever):
    rng = np.random.default_rng(2)
    shown = reader.pictures([rng.integers(0, 255, shape, dtype=np.uint8) for shape in ((60, 60, 3), (40, 90, 3), (90, 30, 3))])
    pictures = [None if number is None else shown[number] for number in PICTURES]
    return [reader.prompt.fill(text, p is not None, "find it") for text, p in zip(TEXTS, pictures, strict=True)], pictures


def counted(reader):
    """Pictures that the vision tower saw and tokens that the language model read, since."""
    core, seen = reader.model.model, {"pictures": 0, "tokens": 0}
    real = core.get_image_features

    def counting(*args, **kwargs):
        found = real(*args, **kwargs)
        seen["pictures"] += len(found.pooler_output)
        return found

    core.get_image_features = counting
    core.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(tokens=seen["tokens"] + kwargs["inputs_embeds"][..., 0].numel()), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("family", [f"{name}{kind}" for name in EVERY_FAMILY for kind in ("", "-chat")])
def test_prompts_of_one_picture_have_the_features_and_gradient_they_have_by_themselves(folders, family):
    reader = MllmRetriever.load(folders[family], "cpu")
    exact = family.removesuffix("-chat") != "qwen3_vl_moe"  # whose experts do not compute in float64
    reader.model.double() if exact else reader.model.float()
    assert (asked_of(folders[family]) is not None) == family.endswith("-chat")
    prompts, pictures = prompts_of(reader)
    weights = torch.randn(len(prompts), reader.dim, dtype=reader.model.dtype, generator=torch.Generator().manual_seed(3))

    def run(features):
        reader.model.zero_grad()
        rows = features()
        (rows * weights).sum().backward()
        return rows.detach(), {n: p.grad.clone() for n, p in reader.model.named_parameters() if p.grad is not None}

    plain = run(lambda: reader.hidden(reader.inputs(prompts, [p for p in pictures if p is not None])))
    shared = SharedPictures(reader)
    assert shared.in_one_sequence and shared.repeated(pictures)
    seen = counted(reader)
    once = run(lambda: shared.features(prompts, pictures))
    assert seen["pictures"] == 3
    torch.testing.assert_close(once[0], plain[0], rtol=1e-5, atol=1e-5)  # norms of these models are float32 in any dtype
    assert once[1].keys() == plain[1].keys()
    scale = max(float(g.abs().max()) for g in plain[1].values())
    for name, gradient in plain[1].items():
        torch.testing.assert_close(once[1][name], gradient, rtol=1e-4, atol=(2e-6 if exact else 1e-4) * scale)
    rows = [0, 1, 3]  # of one picture
    lengths = [len(shared.ids(prompts, pictures)[row]) for row in rows]
    seen |= {"pictures": 0, "tokens": 0}
    shared.features([prompts[row] for row in rows], [pictures[row] for row in rows])
    assert seen["pictures"] == 1
    assert seen["tokens"] < 0.8 * sum(lengths) if family.endswith("-chat") else seen["tokens"] == len(rows) * max(lengths)


@pytest.mark.parametrize("kind", ["sliding_attention", "linear_attention", "chunked_attention"])
def test_no_prompts_share_a_sequence_where_a_layer_does_not_go_by_the_mask(folders, kind):
    reader = MllmRetriever.load(folders["llava_next-chat"], "cpu")
    assert SharedPictures(reader).in_one_sequence
    reader.model.config.get_text_config().layer_types = ["full_attention", kind]
    assert not SharedPictures(reader).in_one_sequence


def test_prompts_longer_than_the_window_of_all_layers_do_not_share_a_sequence(folders):
    reader = MllmRetriever.load(folders["llava_next-chat"], "cpu")
    prompts, pictures = prompts_of(reader)
    rows = [row for row, number in enumerate(PICTURES) if number == 0]
    ids = SharedPictures(reader).ids(prompts, pictures)
    longest = max(len(ids[row]) for row in rows)
    for window, shares in ((None, True), (longest, True), (longest - 1, False)):
        reader.model.config.get_text_config().sliding_window = window
        made = SharedPictures(reader)._sequences(rows, ids)
        assert (len(made) == 1) == shares


def test_rows_of_one_picture_share_a_chunk_as_far_as_its_limits_go(folders):
    for family in ("qwen2_vl", "qwen3_vl-chat"):
        reader = MllmRetriever.load(folders[family], "cpu")
        shared = SharedPictures(reader)
        prompts, pictures = prompts_of(reader)

        def rows(limits, shared=shared, prompts=prompts, pictures=pictures):
            return [unit.rows for unit in shared.together(prompts, pictures, limits)]

        assert rows(Limits()) == [(0, 1, 3), (2, 5), (4,), (6,)]
        assert rows(Limits(rows=2)) == [(0, 1), (3,), (2, 5), (4,), (6,)]
        ids = [len(own) for own in shared.ids(prompts, pictures)]
        (first, *_) = shared.together(prompts, pictures, Limits())
        together = first.sequences * first.length
        assert (
            together < sum(ids[row] for row in first.rows) if family.endswith("-chat") else together == 3 * max(ids[:2] + ids[3:4])
        )
        assert rows(Limits(tokens=together)) == rows(Limits())
        assert rows(Limits(tokens=together - 1))[:2] == [(0, 1), (3,)]


def a_step(recipe, base, triplets, load, work, backward, shared=True):
    """Loss and gradient of a step, dropout as the recipe has it; ``shared`` False: a prompt and a picture for each text."""
    made = a_trainer(recipe, base, triplets, load, work)
    model = made.embedder.model
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    model.train()
    batch = made.data.batch(0)
    assert recipe.texts_at_once == "one" or len(set(batch.queries.tolist())) < len(batch.distinct_queries()[0])
    if not shared:
        made.embedder.shared.repeated = lambda pictures: False
    torch.manual_seed(11)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "cached_backward", backward)
        loss = made.backward(batch, made.embedder.read(batch))
    return float(loss), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl-chat"])
@pytest.mark.parametrize("limits", [{"chunk_size": 5}, {"chunk_size": 4, "chunk_tokens": 170}, {"chunk_tokens": 1}])
def test_shared_pictures_under_gradcache_have_the_gradient_of_separate_prompts(folders, family, limits, triplets, load, tmp_path):
    def of(**changes):
        return small("mllm", batch_size=9, mined_negatives=1, texts_at_once="triplet", **changes)

    arguments = (folders[family], triplets, load)
    plain = a_step(of(chunk_size=1000), *arguments, tmp_path / "a", gradcache.cached_backward, shared=False)
    once = a_step(of(**limits), *arguments, tmp_path / "b", gradcache.cached_backward)
    assert once[0] == pytest.approx(plain[0], rel=1e-6)
    assert_close(once[1], plain[1])


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl-chat"])
def test_the_cached_gradient_of_shared_pictures_is_the_full_batchs_with_dropout_on(folders, family, triplets, load, tmp_path):
    recipe = small("mllm", texts_at_once="triplet", batch_size=9, chunk_size=5, seed=4, lora={"rank": 4, "dropout": 0.3})
    full = a_step(recipe, folders[family], triplets, load, tmp_path / "a", one_graph)
    assert close(full, a_step(recipe, folders[family], triplets, load, tmp_path / "b", gradcache.cached_backward))


def test_a_recipe_of_one_text_takes_the_old_path_bit_for_bit(folders, triplets, load, tmp_path, monkeypatch):
    def fails(*_):
        raise AssertionError("shared")

    monkeypatch.setattr(SharedPictures, "features", fails)
    recipe = small("mllm", batch_size=9, chunk_size=5)
    a_step(recipe, folders["qwen2_vl"], triplets, load, tmp_path / "a", gradcache.cached_backward)
    with pytest.raises(AssertionError, match="shared"):
        at_once = recipe.model_copy(update={"texts_at_once": "triplet"})
        a_step(at_once, folders["qwen2_vl"], triplets, load, tmp_path / "b", gradcache.cached_backward)
