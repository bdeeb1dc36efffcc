"""Benchmark pictures in a corpus: listed, and never a query, a target or a hard negative, once the setting names them."""

import shutil

from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from tests.small_runs import command, run


def test_pictures_of_a_named_benchmark_are_listed_and_kept_out_of_pairs(small_lake, tmp_path):
    shutil.copytree(small_lake[0], tmp_path / "lake")
    lake = Lake(tmp_path / "lake")
    before = lake.read("pairs").to_pylist()
    shown = {p["target_id"] for p in before[:5]} | {before[0]["query_id"]}
    folder = tmp_path / "benchmark"
    folder.mkdir()
    for image_id, data in images_by_id(lake, sorted(shown)).items():
        (folder / f"{image_id}.png").write_bytes(data)

    summary = run(command(lake.root, "--set", f"leaks.benchmarks={{mine: {folder}}}"))

    listed = lake.read("leaks").to_pylist()
    assert shown <= {r["image_id"] for r in listed} and {r["benchmark"] for r in listed} == {"mine"}
    assert {r["image_id"] for r in listed if r["how"] == "content"} == shown
    leaked = {r["image_id"] for r in listed}
    after = lake.read("pairs").to_pylist()
    assert after and not leaked & {i for p in after for i in (p["query_id"], p["target_id"], *p["hard_negatives"])}
    assert summary["pair_reasons"]["benchmark_picture"] > 0 and not summary["checks_failed"]
    assert not {"images", "clip_image", "candidates", "neighbours"} & summary["computed"].keys()
