"""Invariants: below and above the cut together are the stock image tower; training from cached features has the
gradient of plain training with the tower frozen; what is below the cut gets none; the cache is whole or absent."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn.functional import normalize

from mmret.errors import UserError
from mmret.retriever.models.clip import ClipRetriever, feature_tensor
from mmret.retriever.train.data import TrainingSet
from mmret.retriever.train.kinds import EMBEDDERS, TWO_TOWERS
from mmret.retriever.train.loss import info_nce, masks
from mmret.retriever.train.parallel import Group
from mmret.retriever.train.state import States
from mmret.retriever.train.tower import ImageTower, Pictures, frozen_features
from mmret.retriever.train.trainer import Trainer
from mmret.settings import Recipe
from tests.retriever.siglip_folders import siglip2

LEVELS = [("text", 1), ("text+projection", 1), ("text+blocks", 1), ("text+blocks", 2), ("all", 1)]


def recipe(level: tuple[str, int], **changes) -> Recipe:
    return Recipe(
        **{
            "trainable": level[0],
            "image_blocks": level[1],
            "batch_size": 12,
            "mined_negatives": 2,
            "steps": 4,
            "temperature": 0.1,
            **changes,
        }
    )


@pytest.fixture(scope="module", params=TWO_TOWERS)
def towers(request, tmp_path_factory, clip_folder):
    """A folder of each family of two towers."""
    return clip_folder if request.param == "clip" else siglip2(tmp_path_factory.mktemp("siglip2"))


def trainer_in_float64(towers, triplets, tmp_path, chosen: Recipe) -> Trainer:
    embedder = EMBEDDERS["clip"].load(chosen, towers, Group())
    embedder.model.double()
    return Trainer(chosen, TrainingSet(triplets, chosen), embedder, States(tmp_path / "work", "x"))


def plain_gradients(trainer: Trainer, load, batch) -> dict[str, torch.Tensor]:
    """Gradients of a step that embeds every occurrence of every image and text with the stock towers."""
    retriever, data, model = trainer.embedder.retriever, trainer.data, trainer.embedder.model
    pictures = Pictures(data.images, load)

    def embed(numbers):
        return retriever.image_features(torch.cat([retriever.pixels(pictures(np.array([n]))) for n in numbers]))

    texts = torch.cat([retriever.text_features([t]) for t in batch.texts])
    positives, ignored = masks(batch.targets, batch.candidates, queries=batch.distinct_queries()[1])
    model.zero_grad()
    info_nce(
        normalize(embed(batch.queries) + texts, dim=-1),
        normalize(embed(batch.candidates), dim=-1),
        positives,
        ignored,
        trainer.recipe.temperature,
    ).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_the_two_parts_together_are_the_stock_tower(towers, pictures, level):
    embedder = EMBEDDERS["clip"].load(recipe(level), towers, Group())
    retriever, tower = embedder.retriever, embedder.tower
    pixels = retriever.pixels(list(pictures.values())[:4])
    expected = feature_tensor(retriever.model.get_image_features(pixel_values=pixels))
    torch.testing.assert_close(tower.features(tower.lower_layers(pixels)), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_each_distinct_image_once_from_cached_features_gives_the_gradient_of_plain_training(
    towers, triplets, load, tmp_path, level
):
    trainer = trainer_in_float64(towers, triplets, tmp_path, recipe(level))
    batch = trainer.data.batch(0)
    distinct, _, _ = batch.images()
    assert len(distinct) < len(batch.queries) + len(batch.candidates)  # something is shared
    expected = plain_gradients(trainer, load, batch)
    assert ("vision_model.embeddings.patch_embedding.weight" in expected) == (level[0] == "all")
    model = trainer.embedder.model
    trainer.embedder.open(trainer.data, load, tmp_path)
    if level[0] != "all":  # what is on disk is float32
        pixels = trainer.embedder.retriever.pixels(Pictures(trainer.data.images, load)(distinct))
        rows = trainer.embedder.tower.lower_layers(pixels)
        assert torch.allclose(trainer.embedder.read(batch)[:].double(), rows, atol=1e-5)
    else:
        rows = trainer.embedder.read(batch)
        assert rows.dtype == torch.uint8
    model.zero_grad()
    trainer.backward(batch, rows)
    got = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_only_what_the_recipe_names_is_trained(towers, triplets, tmp_path, level):
    trainer = trainer_in_float64(towers, triplets, tmp_path, recipe(level))
    trained = {name for name, p in trainer.embedder.model.named_parameters() if p.requires_grad}
    projections = {"text_projection.weight", "text_model.head.weight"}, {"visual_projection.weight", "vision_model.head.probe"}
    assert projections[0] & trained and "text_model.embeddings.token_embedding.weight" in trained
    assert bool(projections[1] & trained) == (level[0] != "text")
    assert ("vision_model.encoder.layers.1.mlp.fc1.weight" in trained) == (level[0] in ("text+blocks", "all"))
    assert ("vision_model.encoder.layers.0.mlp.fc1.weight" in trained) == (level in (("text+blocks", 2), ("all", 1)))


def test_features_are_cached_whole_and_once(clip_folder, pictures, load, tmp_path):
    retriever = ClipRetriever.load(clip_folder, device="cpu")
    tower = ImageTower(retriever.model, recipe(("text+projection", 1)))
    images, reported = sorted(pictures), []
    source = Pictures(pa.array(images), load)
    path = tmp_path / "frozen.npy"
    rows = frozen_features(tower, retriever, source, path, reported.append, chunk=10)
    assert reported == [10, 20, 24] and rows.shape == (24, 32) and rows.dtype == np.float32
    assert [p.name for p in tmp_path.iterdir()] == ["frozen.npy"]
    np.testing.assert_allclose(rows[3:5], tower.lower_layers(retriever.pixels(source(np.array([3, 4])))).numpy(), atol=1e-6)
    again = frozen_features(tower, retriever, source, path, reported.append, chunk=10)
    assert len(reported) == 3 and np.array_equal(rows, again)


def test_an_image_the_lake_does_not_hold_is_named(triplets):
    chosen = recipe(("text", 1))
    data = TrainingSet(triplets, chosen)
    with pytest.raises(UserError, match=data.images[0].as_py()):
        Pictures(data.images, lambda ids: {})(np.array([0]))
