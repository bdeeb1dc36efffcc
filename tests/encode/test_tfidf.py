"""Invariants of the caption signal by words: cosines are those of exact tf-idf to within the directions' noise; a caption that
differs in one rare word is farther than one that differs in a frequent word; what the folder says decides, not the corpus that is
encoded; every text has a unit vector."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmret.encode.location import Location
from mmret.encode.protocol import load_encoder
from mmret.encode.tfidf import FILE, WIDTH, TfidfEncoder, inverse_frequencies, save_tfidf, words_of
from mmret.errors import UserError
from mmret.ingest.shapes import caption, scene
from mmret.settings import EncoderSettings

SETTINGS = EncoderSettings(kind="tfidf", model="towers/tfidf")


def made(captions: list[str], root: Path) -> TfidfEncoder:
    (root / "towers/tfidf").mkdir(parents=True)
    save_tfidf(inverse_frequencies(captions), root / "towers/tfidf")
    return load_encoder(SETTINGS, "caption", root)


def exact(texts: list[str], captions: list[str]) -> np.ndarray:
    """Cosines of the tf-idf vectors of ``texts``, by the vocabulary of ``captions``."""
    counts = Counter(w for c in captions for w in set(words_of(c)))
    words = sorted(counts)
    rows = np.array([[np.log(len(captions) / counts[w]) * (w in words_of(t)) for w in words] for t in texts])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def test_cosines_are_those_of_exact_tf_idf_to_within_the_noise_of_the_directions(tmp_path):
    captions = [caption(scene(0, i)) for i in range(300)]
    vectors = made(captions, tmp_path).encode_texts(captions)
    assert vectors.shape == (300, WIDTH) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(300), abs=1e-5)
    off = vectors @ vectors.T - exact(captions, captions)
    assert np.sqrt(np.mean(off**2)) < 0.05 and abs(off.mean()) < 0.02


def test_what_the_folder_says_decides_and_a_word_it_does_not_know_counts_as_the_rarest(tmp_path):
    encoder = made(["a red star"] * 60 + ["a blue star"] * 30 + ["a blue moon"] * 10, tmp_path)
    weights = inverse_frequencies(["a b"] * 3 + ["a"])
    assert weights == pytest.approx({"": np.log(5), "a": 0.0, "b": np.log(4 / 3)})
    one, frequent, rare, unknown = encoder.encode_texts(["a blue star", "a red star", "a blue moon", "a blue zebra"])
    assert one @ frequent < one @ rare, "blue is rarer than star, so the moon keeps more"
    assert encoder.weights[""] > max(w for word, w in encoder.weights.items() if word)
    assert one @ unknown < one @ rare
    assert (encoder.encode_texts(["a blue star"])[0] == one).all() and encoder.model.startswith("towers/tfidf@")


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_every_text_has_a_unit_vector_that_depends_on_its_set_of_words_alone(text):
    encoder = TfidfEncoder({"": 3.0, "a": 0.0, "b": 1.0}, Location("x", None, "1"))
    vector, other = encoder.encode_texts([text, " ".join(reversed(words_of(text) * 2))])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert np.allclose(vector, other)
    assert encoder.truncated([text]) == [False]


def test_words_are_told_apart_in_scripts_with_and_without_spaces():
    assert words_of("A large, RED star_shape") == ["a", "large", "red", "star", "shape"]
    assert words_of("红色的星x2") == ["红", "色", "的", "星", "x2"]
    assert words_of("हिन्दी में बिल्ली") == ["हिन्दी", "में", "बिल्ली"], "vowel signs belong to their word"
    assert words_of("แมวน้อย") == ["แ", "ม", "ว", "น้", "อ", "ย"]
    assert words_of("🦆 ❤️ duck") == ["🦆", "❤", "duck"]
    assert words_of("") == []


def test_it_is_for_captions_only_and_says_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="has no towers/tfidf yet"):
        load_encoder(SETTINGS, "caption", tmp_path)
    encoder = made(["a star"], tmp_path)
    with pytest.raises(UserError, match="encoders.clip_image.kind is 'tfidf', which compares words"):
        load_encoder(SETTINGS, "clip_image", tmp_path)
    with pytest.raises(UserError, match="sees no pictures"):
        encoder.encode_images([])
    for broken in ("", "[]", '{"width": 3, "weights": {"": 1.0}}', '{"width": 512, "weights": {}}'):
        (tmp_path / "towers/tfidf" / FILE).write_text(broken)
        with pytest.raises(UserError, match="holds no weights of words"):
            load_encoder(SETTINGS, "caption", tmp_path)
