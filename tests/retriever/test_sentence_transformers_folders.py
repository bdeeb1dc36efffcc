"""A folder of sentence-transformers given as a model is refused with one sentence that names the part to give."""

import json
from pathlib import Path

import pytest

from mmret.encode.location import locate
from mmret.errors import UserError
from mmret.retriever.models.clip import ClipRetriever
from mmret.retriever.models.load import Retriever
from mmret.settings import EncoderSettings


def folder(root: Path, top: dict | None, **parts: dict) -> Path:
    """What sentence-transformers saves: ``modules.json``, perhaps a configuration beside it, and folders of parts."""
    for name, config in {"": top, **parts}.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        if config is not None:
            (root / name / "config.json").write_text(json.dumps(config))
    (root / "modules.json").write_text("[]")
    return root


def loads(path: Path) -> list:
    encoder = EncoderSettings(kind="clip", model=str(path))
    return [lambda: Retriever.load(path), lambda: ClipRetriever.load(path), lambda: locate(encoder, path.parent)]


def test_one_that_embeds_texts_alone_is_refused_wherever_a_model_is_named(tmp_path):
    texts = folder(tmp_path / "texts", {"model_type": "bert"}, **{"1_Pooling": {"pooling_mode_mean_tokens": True}})
    for load in loads(texts):
        with pytest.raises(UserError, match="texts is a sentence-transformers folder.*model folder.*texts alone"):
            load()


def test_of_one_that_embeds_pictures_in_a_part_that_part_is_named(tmp_path):
    pictures = folder(tmp_path / "st", None, **{"0_CLIPModel": {"model_type": "clip", "vision_config": {}}, "1_Normalize": {}})
    for load in loads(pictures):
        with pytest.raises(UserError, match="sentence-transformers folder.*its part .*0_CLIPModel is one, give that"):
            load()


def test_one_that_is_a_picture_model_itself_is_taken(tmp_path):
    both = folder(tmp_path / "both", {"model_type": "clip", "vision_config": {}})
    assert locate(EncoderSettings(kind="clip", model=str(both)), tmp_path).path == both
