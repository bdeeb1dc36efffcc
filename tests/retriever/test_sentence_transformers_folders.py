"""A folder of sentence-transformers given as a model: the part that embeds pictures is loaded, and one that embeds texts alone is
refused with one sentence."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmret.encode.location import locate
from mmret.errors import UserError
from mmret.ingest.pictures.decode import open_rgb
from mmret.retriever.models.clip import ClipRetriever
from mmret.retriever.models.load import Retriever, embedding_digest
from mmret.retriever.train.loop import train
from mmret.settings import EncoderSettings
from tests.retriever.runs import small


def folder(root: Path, top: dict | None, **parts: dict) -> Path:
    """What sentence-transformers saves: ``modules.json``, perhaps a configuration beside it, and folders of parts."""
    for name, config in {"": top, **parts}.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        if config is not None:
            (root / name / "config.json").write_text(json.dumps(config))
    (root / "modules.json").write_text("[]")
    return root


def test_one_that_embeds_texts_alone_is_refused_wherever_a_model_is_named(tmp_path):
    texts = folder(tmp_path / "texts", {"model_type": "bert"}, **{"1_Pooling": {"pooling_mode_mean_tokens": True}})
    encoder = EncoderSettings(kind="clip", model=str(texts))
    for load in (lambda: Retriever.load(texts), lambda: locate(encoder, tmp_path)):
        with pytest.raises(UserError, match="texts is a sentence-transformers folder.*model folder.*texts alone"):
            load()
    with pytest.raises(UserError, match="type 'bert'; this retriever needs a CLIPModel"):
        ClipRetriever.load(texts)


def test_of_one_that_embeds_pictures_in_a_part_an_encoder_is_told_that_part(tmp_path):
    pictures = folder(tmp_path / "st", None, **{"0_CLIPModel": {"model_type": "clip", "vision_config": {}}, "1_Normalize": {}})
    with pytest.raises(UserError, match="sentence-transformers folder.*its part .*0_CLIPModel is one, give that"):
        locate(EncoderSettings(kind="clip", model=str(pictures)), tmp_path)


def test_a_retriever_takes_the_part_that_embeds_pictures(clip_folder, pictures, triplets, load, tmp_path):
    """As clip-ViT-B-32 of sentence-transformers is published."""
    shutil.copytree(clip_folder, tmp_path / "st" / "0_CLIPModel")
    module = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}
    (tmp_path / "st" / "modules.json").write_text(json.dumps([module]))
    files = list(pictures.values())[:3]
    expected = Retriever.load(clip_folder, "cpu").encode(files, ["a", "b", "c"])
    for load_it in (Retriever.load, ClipRetriever.load):
        np.testing.assert_array_equal(load_it(tmp_path / "st", "cpu").encode(files, ["a", "b", "c"]), expected)
    assert embedding_digest(tmp_path / "st") == embedding_digest(clip_folder)
    theirs = pytest.importorskip("sentence_transformers").SentenceTransformer(str(tmp_path / "st"), device="cpu")
    shown = [open_rgb(file) for file in files]
    np.testing.assert_allclose(
        theirs.encode(shown, normalize_embeddings=True), ClipRetriever.load(clip_folder).encode(files), atol=1e-5
    )
    train(small("clip", steps=1), triplets, load, tmp_path / "st", tmp_path / "out")
    assert (tmp_path / "out" / "config.json").is_file()
    dense = {"idx": 1, "name": "1", "path": "1_Dense", "type": "sentence_transformers.models.Dense"}
    (tmp_path / "st" / "modules.json").write_text(json.dumps([module, dense]))
    with pytest.raises(UserError, match="a module Dense behind its CLIP model"):
        Retriever.load(tmp_path / "st")


def test_one_that_is_a_picture_model_itself_is_taken(tmp_path):
    both = folder(tmp_path / "both", {"model_type": "clip", "vision_config": {}})
    assert locate(EncoderSettings(kind="clip", model=str(both)), tmp_path).path == both
