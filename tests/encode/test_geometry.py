"""Invariants of what a model is shown, by hand: sizes and crops to the pixel, values of a batch, and how large it is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mmret.encode import base
from mmret.encode.base import batch_size, transformer_bytes
from mmret.encode.pixels import Preprocessing, ResizeCrop, from_image_processor
from mmret.encode.vectors import shard_filter
from mmret.errors import UserError
from mmret.unit_vectors import UnusableVectors, require_unit

BICUBIC = Image.Resampling.BICUBIC


@pytest.mark.parametrize("size, shown", [((40, 20), (20, 10)), ((20, 40), (10, 20)), ((30, 30), (10, 10)), ((35, 10), (35, 10))])
def test_the_shorter_side_is_resized_and_the_other_keeps_the_shape(size, shown):
    assert ResizeCrop(10, None, None, BICUBIC)(Image.new("RGB", size)).size == shown
    assert ResizeCrop(None, (7, 9), None, BICUBIC)(Image.new("RGB", size)).size == (7, 9)
    assert ResizeCrop(None, None, None, BICUBIC)(Image.new("RGB", size)).size == size


def test_the_crop_is_the_middle_and_what_is_smaller_lies_in_the_middle_of_black():
    picture = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6)).convert("RGB")
    seen = np.asarray(ResizeCrop(None, None, (2, 4), BICUBIC)(picture))[..., 0]
    assert seen.tolist() == [[6 * row + column for column in (2, 3)] for row in (1, 2, 3, 4)]
    padded = np.asarray(ResizeCrop(None, None, (8, 6), BICUBIC)(Image.new("RGB", (6, 6), "white")))[..., 0]
    assert padded[0].tolist() == [0, *[255] * 6, 0]


def test_pixels_are_channels_first_and_normalised_by_scale_mean_and_deviation_of_each():
    made = Preprocessing(lambda image: image, (0.5, 0.0, 0.25), (0.5, 1.0, 2.0), 1 / 255, "x")
    pixels = made.pixels(Image.new("RGB", (2, 3), (255, 0, 51)))
    assert pixels.shape == (3, 3, 2) and pixels.dtype == torch.uint8 and pixels[:, 0, 0].tolist() == [255, 0, 51]
    found = made.normalise(pixels[None])
    assert found.dtype == torch.float32 and found[0, :, 1, 1].tolist() == pytest.approx([1, 0, (0.2 - 0.25) / 2])
    assert pixels[0, 0, 0] == 255, "the picture itself is left alone"


def test_a_configuration_says_what_is_resized_cropped_scaled_and_normalised_and_its_name_changes_with_each():
    plain = {"size": {"shortest_edge": 10}, "crop_size": 8, "do_center_crop": True}
    plain |= {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    made = from_image_processor(plain)
    assert made.geometry == ResizeCrop(10, None, (8, 8), BICUBIC)
    assert (made.mean, made.std, made.scale) == ((0.5,) * 3, (0.25,) * 3, 1 / 255)
    assert from_image_processor(plain | {"do_resize": False}).geometry.shortest is None
    assert from_image_processor(plain | {"do_center_crop": False}).geometry.crop is None
    assert from_image_processor(plain | {"do_normalize": False}).mean == (0, 0, 0)
    assert from_image_processor(plain | {"do_rescale": False}).scale == 1
    exact = from_image_processor(plain | {"size": {"height": 6, "width": 9}, "crop_size": {"height": 3, "width": 5}})
    assert exact.geometry == ResizeCrop(None, (9, 6), (5, 3), BICUBIC)
    other = {"size": 11, "crop_size": 9, "image_std": [1.0] * 3, "image_mean": [0.1] * 3, "resample": 2, "do_rescale": False}
    changes = [{}, *({name: value} for name, value in other.items())]
    assert len({from_image_processor(plain | change).name for change in changes}) == 7
    with pytest.raises(UserError, match="resizes by longest_edge cannot be used"):
        from_image_processor(plain | {"size": {"longest_edge": 9}})


@pytest.mark.parametrize("rows, size", [(0.5, 1), (1, 1), (3.9, 2), (4, 4), (15, 8), (16, 16), (1000, 16)])
def test_a_batch_on_the_cpu_is_the_largest_power_of_two_that_fits_a_third_of_a_threads_memory(monkeypatch, rows, size):
    monkeypatch.setattr(base, "free_memory", lambda: int(rows * 3 * 100 * torch.get_num_threads()) + 3)
    assert batch_size(torch.device("cpu"), 100) == size


@pytest.mark.parametrize("rows, size", [(3, 16), (17, 16), (64, 64), (5000, 1024)])
def test_a_batch_on_a_gpu_has_sixteen_to_a_thousand_rows(monkeypatch, rows, size):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (rows * 300 + 3, 0))
    assert batch_size(SimpleNamespace(type="cuda"), 100) == size
    assert transformer_bytes(10, 8, 5) == 4 * (12 * 10 * 8 + 30) and transformer_bytes(2, 8) == 768


def test_a_vector_that_is_off_is_refused_by_its_row_and_one_within_the_tolerance_is_not_off():
    def words(row: int, kind: str) -> str:
        return f"row {row}: {kind}"

    good = np.eye(3, dtype=np.float32)
    assert require_unit(good, words) is good and require_unit(good * np.float32(1.0009), words).any()
    kinds = {"zeros": [0, 0, 0], "finite": [np.nan, 1, 0], "numbers": [np.inf, 0, 0]}
    kinds |= {"length 2 ": [0, 2, 0], "length 0.998": [0, 0.998, 0]}
    for kind, vector in kinds.items():
        bad = good.copy()
        bad[1:] = vector
        with pytest.raises(UnusableVectors, match=f"row 1: a vector .*{kind}") as caught:
            require_unit(bad, words)
        assert (caught.value.row, caught.value.count) == (1, 2)


def test_a_filter_takes_one_models_rows_of_one_shard():
    assert shard_filter("shard-00001", "a'b") == "shard = 'shard-00001' AND model = 'a''b'"
