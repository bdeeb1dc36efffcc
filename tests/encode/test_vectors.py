"""Vectors of a shard: one row per image, one model per reading, the same numbers whatever interrupted the work."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmret.encode.protocol import load_encoder
from mmret.encode.stage import encode_shard
from mmret.encode.vectors import read_vectors, vector_table
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake.inputs import Inputs, record_inputs
from mmret.schemas import IMAGES_INDEX, SIGNALS
from mmret.settings import EncoderSettings
from tests.encode.conftest import SHARD, corpus, encoded, fill, interrupted_and_whole, noise, same_vectors


@pytest.fixture
def specs(clip_folder: Path, dino_folder: Path) -> dict[str, EncoderSettings]:
    clip = EncoderSettings(kind="clip", model=str(clip_folder), device="cpu", batch_size=4)
    return {
        "clip_image": clip,
        "caption": clip,
        "dino_image": EncoderSettings(kind="dinov2", model=str(dino_folder), device="cpu", batch_size=4),
    }


def test_a_shards_vectors_are_the_encoders_own_in_position_order(make_lake: Callable[..., Lake], specs: dict) -> None:
    pictures = corpus(11)
    lake = make_lake(pictures)
    ids = lake.read("images", SHARD)["image_id"].to_pylist()
    for signal in SIGNALS:
        counts = encode_shard(lake, SHARD, signal, specs[signal], "inputs-1")
        encoder = load_encoder(specs[signal], signal, lake.root)
        assert counts == {"rows": 11, "computed": 11, "truncated": 0, "model": encoder.model}
        found, values = read_vectors(lake, SHARD, signal)
        if signal == "caption":
            expected = encoder.encode_texts([caption for _, caption in pictures])
        else:
            expected = np.concatenate([encoder.encode_images(encoder.preprocess(data)[None]) for data, _ in pictures])
        assert found == ids and values.dtype == np.float16
        assert np.abs(values - expected).max() < 1e-3
        facts = lake.facts(signal, SHARD)
        assert (facts.rows, facts.inputs, facts.notes["model"]) == (11, "inputs-1", encoder.model)
        assert encode_shard(lake, SHARD, signal, specs[signal], "inputs-2")["computed"] == 0


@pytest.mark.parametrize("signal", ["clip_image", "caption"])
def test_interrupted_equals_uninterrupted(
    make_lake: Callable[..., Lake], specs: dict, monkeypatch: pytest.MonkeyPatch, signal: str
) -> None:
    monkeypatch.setattr("mmret.encode.stage.FLUSH_ROWS", 4)
    broken, whole = interrupted_and_whole(make_lake, signal, specs[signal])
    assert same_vectors(broken, whole, signal)


def test_a_changed_model_recomputes_and_never_mixes(
    make_lake: Callable[..., Lake], specs: dict, clip_folder: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import CLIPModel

    lake = make_lake(corpus(6))
    model = CLIPModel.from_pretrained(clip_folder)
    with torch.no_grad():
        model.visual_projection.weight.mul_(-1)
    other = tmp_path / "other"
    model.save_pretrained(other)
    for file in clip_folder.glob("*.json"):
        if file.name != "config.json":
            (other / file.name).write_bytes(file.read_bytes())
    first, second = specs["clip_image"], EncoderSettings(kind="clip", model=str(other), device="cpu")
    encode_shard(lake, SHARD, "clip_image", first, "a")
    _, before = read_vectors(lake, SHARD, "clip_image")
    assert encode_shard(lake, SHARD, "clip_image", second, "b")["computed"] == 6
    _, after = read_vectors(lake, SHARD, "clip_image")
    assert np.allclose(after.astype(np.float32), -before.astype(np.float32), atol=2e-3)
    assert len(set(lake.read("clip_image", SHARD)["model"].to_pylist())) == 1
    assert encode_shard(lake, SHARD, "clip_image", first, "a")["computed"] == 0
    assert np.array_equal(read_vectors(lake, SHARD, "clip_image")[1], before)


def test_a_model_of_another_width_gets_a_table_of_its_own(
    make_lake: Callable[..., Lake], specs: dict, open_clip_folder: Path
) -> None:
    lake = make_lake(corpus(5))
    encode_shard(lake, SHARD, "clip_image", specs["clip_image"], "a")
    assert vector_table(lake, SHARD, "clip_image").name == "clip_image"
    wide = EncoderSettings(kind="open_clip", model=str(open_clip_folder), device="cpu")
    for _ in range(2):
        encode_shard(lake, SHARD, "clip_image", wide, "b")
        assert read_vectors(lake, SHARD, "clip_image")[1].shape == (5, 40)
    assert vector_table(lake, SHARD, "clip_image").name == "clip_image_40"


def test_long_captions_are_flagged_and_counted(make_lake: Callable[..., Lake], specs: dict) -> None:
    captions = ["red", "blue " * 10_000, "", "small " * 75, "small " * 76]
    lake = make_lake([(encoded(noise(i)), caption) for i, caption in enumerate(captions)])
    assert encode_shard(lake, SHARD, "caption", specs["caption"], "i")["truncated"] == 2
    assert lake.read("caption", SHARD)["truncated"].to_pylist() == [False, True, False, False, True]
    again = encode_shard(lake, SHARD, "caption", specs["caption"], "j")
    assert (again["truncated"], again["computed"]) == (2, 0)


@pytest.mark.parametrize(("bad", "says"), [(0.0, "of zeros"), (np.nan, "finite numbers"), (np.inf, "finite numbers")])
def test_a_vector_that_is_none_is_refused_by_name(make_lake: Callable[..., Lake], specs: dict, bad: float, says: str) -> None:
    lake = make_lake(corpus(6))
    victim = lake.read("images", SHARD)["image_id"][4].as_py()
    encoder = load_encoder(specs["caption"], "caption", lake.root)
    method = encoder.encode_texts

    def poisoned(texts: list[str]) -> np.ndarray:
        values = method(texts)
        if len(texts) == 2:  # the second batch, images 4 and 5
            values[0] = bad
        return values

    encoder.encode_texts = poisoned
    with pytest.raises(UserError, match=rf"{re.escape(encoder.model)} gave image {victim} \(.+\) a vector .*{says} for caption"):
        encode_shard(lake, SHARD, "caption", specs["caption"], "i", encoder)


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_tower_with_one_damaged_weight_stores_nothing(make_lake: Callable[..., Lake], specs: dict, signal: str) -> None:
    import torch

    lake = make_lake(corpus(6))
    encoder = load_encoder(specs[signal], signal, lake.root)
    weights = [p for name, p in encoder.network.named_parameters() if p.ndim > 1 and ("vision" in name or signal != "clip_image")]
    with torch.no_grad():
        for weight in weights:
            weight.view(-1)[0] = torch.nan
    with pytest.raises(UserError, match=r"gave image [0-9a-f]{32} \(.+\) a vector that is not of finite numbers"):
        encode_shard(lake, SHARD, signal, specs[signal], "i", encoder)
    assert lake.facts(signal, SHARD) is None and lake.lance(signal).count_rows() == 0


@pytest.mark.parametrize(("bad", "says"), [(0.0, "of zeros"), (np.inf, "finite numbers")])
def test_a_stored_vector_that_is_none_is_refused_when_it_is_read(
    make_lake: Callable[..., Lake], specs: dict, bad: float, says: str
) -> None:
    lake = make_lake(corpus(6))
    encode_shard(lake, SHARD, "clip_image", specs["clip_image"], "i")
    ids, values = read_vectors(lake, SHARD, "clip_image")
    table = vector_table(lake, SHARD, "clip_image")
    row = table.search().where(f"image_id = '{ids[4]}'").to_arrow()
    hurt = pa.FixedSizeListArray.from_arrays(pa.array(np.full(values.shape[1], bad, np.float16)), values.shape[1])
    table.delete(f"image_id = '{ids[4]}'")
    table.add(row.set_column(row.schema.names.index("vector"), "vector", hurt))
    with pytest.raises(UserError, match=rf"1 of 6 vectors of clip_image, {SHARD} .*{ids[4]} has a vector .*{says}.*then run again"):
        read_vectors(lake, SHARD, "clip_image")


def test_the_results_do_not_depend_on_the_number_of_threads(make_lake: Callable[..., Lake], specs: dict) -> None:
    import torch

    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            lake = make_lake(corpus(17), f"threads-{threads}")
            encode_shard(lake, SHARD, "clip_image", specs["clip_image"], "i")
            assert torch.get_num_threads() == threads
            found.append(read_vectors(lake, SHARD, "clip_image")[1])
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*found)


def test_missing_vectors_say_what_to_do(make_lake: Callable[..., Lake], specs: dict) -> None:
    lake = make_lake(corpus(3))
    with pytest.raises(UserError, match="mmret run"):
        read_vectors(lake, SHARD, "caption")
    encode_shard(lake, SHARD, "caption", specs["caption"], "i")
    lake.lance("caption").delete("truncated = false")
    with pytest.raises(UserError, match="3 of 3 vectors of caption"):
        read_vectors(lake, SHARD, "caption")


def test_an_undecodable_stored_picture_is_named(make_lake: Callable[..., Lake], specs: dict) -> None:
    lake = make_lake(corpus(3))
    table = lake.lance("images")
    victim = lake.read("images", SHARD)["image_id"][1].as_py()
    table.update(where=f"image_id = '{victim}'", values={"data": b"not a picture"})
    with pytest.raises(UserError, match=f"{victim}.*cannot be decoded"):
        encode_shard(lake, SHARD, "clip_image", specs["clip_image"], "i")


def test_two_shards_are_apart(make_lake: Callable[..., Lake], specs: dict) -> None:
    pictures = corpus(9)
    lake = make_lake(pictures[:5])
    fill(lake, pictures[5:], "shard-00001")
    for shard, rows in ((SHARD, 5), ("shard-00001", 4)):
        assert encode_shard(lake, shard, "clip_image", specs["clip_image"], "i")["computed"] == rows
        assert len(read_vectors(lake, shard, "clip_image")[0]) == rows


def test_a_raised_version_of_the_code_makes_a_new_model_of_the_same_weights(
    make_lake: Callable[..., Lake], specs: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = make_lake(corpus(5))
    before = encode_shard(lake, SHARD, "clip_image", specs["clip_image"], "a")["model"]
    monkeypatch.setattr("mmret.encode.VERSION", "2")
    again = encode_shard(lake, SHARD, "clip_image", specs["clip_image"], "b")
    assert again["computed"] == 5 and again["model"] == f"{before}+v2"


def test_weights_changed_in_place_make_the_stage_stale(clip_folder: Path, tmp_path: Path) -> None:
    import shutil

    from mmret.settings import load_profile
    from mmret.stages import STAGES

    copy = Path(shutil.copytree(clip_folder, tmp_path / "copy"))
    profiles = [
        load_profile("local", {"encoders.clip_image": {"kind": "clip", "model": str(path)}}) for path in (clip_folder, copy)
    ]
    one, other = (STAGES["clip_image"].fingerprint_settings(p, SHARD)["weights"] for p in profiles)
    assert one == other
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert STAGES["clip_image"].fingerprint_settings(profiles[1], SHARD)["weights"] != one
    assert "weights" not in STAGES["clip_image"].fingerprint_settings(load_profile("demo"), SHARD)


def test_batches_follow_the_memory_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from mmret.devices import free_memory
    from mmret.encode.base import batch_size, transformer_bytes

    assert 2**20 < free_memory() < 2**46
    large = transformer_bytes(577, 1024, 336**2)  # ViT-L/14 at 336 pixels
    sizes = []
    for free in (2**20, 2**29, 2**30, 2**40):
        monkeypatch.setattr("mmret.encode.base.free_memory", lambda free=free: free)
        sizes.append(batch_size(torch.device("cpu"), large))
    assert sizes[0] == 1 and sizes[-1] == 16 and sizes == sorted(set(sizes))
    assert all(size * large <= free for size, free in zip(sizes[1:], (2**29, 2**30, 2**40), strict=True))


def edit_captions(lake: Lake, captions: dict[int, str]) -> None:
    """Give images of the shard, by position, other captions, as ingesting edited rows does."""
    rows = lake.read("images", SHARD).to_pylist()
    for at, caption in captions.items():
        rows[at]["caption"] = caption
    lake.write("images", SHARD, pa.Table.from_pylist(rows, IMAGES_INDEX), "edited")


def encode_recorded(lake: Lake, settings: EncoderSettings) -> int:
    """Encode captions as a run does, with the inputs recorded; returns how many were computed."""
    upstream = (("images", SHARD, lake.facts("images", SHARD).of_columns(("image_id", "caption"))),)
    inputs = Inputs("caption", "1", {}, upstream)
    record_inputs(lake, inputs)
    return encode_shard(lake, SHARD, "caption", settings, inputs.fingerprint)["computed"]


def test_an_edited_caption_alone_is_encoded_again_and_its_old_vector_is_gone(make_lake: Callable[..., Lake], specs: dict) -> None:
    lake = make_lake(corpus(9))
    encode_recorded(lake, specs["caption"])
    (ids, before), digest = read_vectors(lake, SHARD, "caption"), lake.facts("caption", SHARD).digest
    edit_captions(lake, {2: "something else", 5: "another thing"})
    assert encode_recorded(lake, specs["caption"]) == 2
    same_ids, after = read_vectors(lake, SHARD, "caption")
    assert same_ids == ids and np.flatnonzero((before != after).any(axis=1)).tolist() == [2, 5]
    expected = load_encoder(specs["caption"], "caption", lake.root).encode_texts(["something else", "another thing"])
    assert np.abs(after[[2, 5]] - expected).max() < 1e-3
    assert lake.lance("caption").count_rows() == 9 and lake.facts("caption", SHARD).digest != digest
    edit_captions(lake, {2: corpus(9)[2][1], 5: corpus(9)[5][1]})
    assert encode_recorded(lake, specs["caption"]) == 2
    assert np.abs(read_vectors(lake, SHARD, "caption")[1].astype(np.float32) - before).max() < 2e-3


def test_vectors_from_before_captions_could_change_count_only_for_the_captions_they_were_made_from(
    make_lake: Callable[..., Lake], specs: dict
) -> None:
    lake = make_lake(corpus(9))
    encode_recorded(lake, specs["caption"])
    facts, schema = lake.facts("caption", SHARD), lake.lance("caption").schema
    rows = lake.lance("caption").to_arrow().drop_columns(["caption_id"])
    lake._lance.create_table("caption", data=rows, mode="overwrite")
    index = lake.read("caption", SHARD)
    index = index.set_column(index.schema.get_field_index("caption_id"), "caption_id", pa.nulls(len(index), pa.string()))
    old = lake.write("caption", SHARD, index, facts.inputs, **facts.notes)
    assert encode_recorded(lake, specs["caption"]) == 0
    assert lake.facts("caption", SHARD).digest == old.digest, "nothing turns stale for a column that says nothing"
    assert set(lake.lance("caption").schema.names) == set(schema.names)
    edit_captions(lake, {4: "something else"})
    assert encode_recorded(lake, specs["caption"]) == 1
    edit_captions(lake, {4: "something else", 0: "new"})
    for version in (lake.root / "history" / "images" / SHARD).iterdir():
        version.unlink()
    assert encode_recorded(lake, specs["caption"]) == 8, "where it is not known what they were made from, they are made again"
