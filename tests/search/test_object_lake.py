"""Search of a lake in an object store: vectors are made once for all machines, and looking for changes costs one small request."""

import shutil
import time

import numpy as np
import pyarrow as pa
import pytest

from mmret.lake import Lake, history
from mmret.lake.changes import Changes
from mmret.lake.configuration import resolve
from mmret.retriever.models.clip import ClipRetriever
from mmret.schemas import IMAGES_INDEX
from mmret.search import corpus_vectors
from mmret.search.corpus_vectors import drop_other_galleries, gallery
from mmret.search.models import model_folder
from mmret.search.query import Page, Query
from mmret.search.search import Searcher
from mmret.search.service import SearchService
from mmret.search.snapshot import state_of
from tests.storage.copies import copy_lake
from tests.storage.stores import in_memory

pytest.importorskip("obstore", reason="object stores need the extra 'object-store'")


def write_images(lake: Lake, shard: str, ids: list[str]) -> None:
    rows = [{**dict.fromkeys(IMAGES_INDEX.names), "image_id": i, "shard": shard, "position": n} for n, i in enumerate(ids)]
    lake.write("images", shard, pa.Table.from_pylist(rows, IMAGES_INDEX), "x")


def test_another_machine_embeds_only_what_none_has_embedded(pictures, clip_folder, monkeypatch, tmp_path):
    in_memory(monkeypatch, tmp_path)
    embedded = []

    def read(_, shard, batch_rows, ids):
        embedded.append(shard)
        yield pa.record_batch({"image_id": list(ids), "data": pa.array([pictures[i] for i in ids], pa.large_binary())})

    monkeypatch.setattr(corpus_vectors, "read_images", read)
    lake, names = Lake("s3://bucket/lake"), sorted(pictures)
    write_images(lake, "shard-00000", names[:15])
    ids, vectors = gallery(lake, clip_folder)
    np.testing.assert_allclose(vectors, ClipRetriever.load(clip_folder, "cpu").encode([pictures[i] for i in ids]), atol=1e-6)
    monkeypatch.setenv("MMRET_SCRATCH", str(tmp_path / "of another machine"))
    other = Lake("s3://bucket/lake")
    write_images(other, "shard-00001", names[15:])
    again, more = gallery(other, clip_folder)
    assert again == names and np.array_equal(more[:15], vectors) and embedded == ["shard-00000", "shard-00001"]
    shard = next(corpus_vectors.gallery_shards(other, clip_folder))
    assert np.array_equal(shard.mapped_vectors(), vectors) and shard.path.is_relative_to(tmp_path / "of another machine")
    assert drop_other_galleries(lake, []) == 1 and not lake.storage.list("gallery")


def test_looking_for_changes_costs_one_request_and_sees_a_run_at_once(monkeypatch, tmp_path):
    in_memory(monkeypatch, tmp_path)
    lake, asked = Lake("s3://bucket/lake"), []
    for verb in ("token", "list", "read_with_token", "open", "read"):
        real = getattr(type(lake.storage), verb)
        monkeypatch.setattr(
            type(lake.storage), verb, lambda s, *a, verb=verb, real=real, **k: (asked.append(verb), real(s, *a, **k))[1]
        )
    changes = Changes(lake, every_s=0.5)
    assert changes.maybe() and not changes.maybe() and asked == ["token", "token"]
    history.log_run(lake, "run-1", 0, {})
    assert changes.maybe() and not changes.maybe()
    time.sleep(0.6)
    assert changes.maybe(), "what changed without a run"
    assert all(Changes(Lake(tmp_path / "local")).maybe() for _ in range(2))


def test_search_and_service_over_an_object_store_answer_as_over_a_folder_and_follow_it(small_lake, monkeypatch, tmp_path):
    in_memory(monkeypatch, tmp_path)
    local = Lake(shutil.copytree(small_lake[0], tmp_path / "local"))
    lake = copy_lake(local, Lake("s3://bucket/demo"))
    profile = resolve(lake)[0]
    query, page = Query(text="a red circle"), Page(k=5, where="width > 10")
    expected = Searcher(local, profile).search("demo", query, k=5, where=page.where)
    assert Searcher(lake, profile).search("demo", query, k=5, where=page.where) == expected
    state, searcher = state_of(lake, profile, "demo"), Searcher(lake, profile)
    service = SearchService(searcher, ["demo"], refresh_s=0.05)
    service.start()
    try:
        assert service.submit(query, page).result(60) == expected
        here = service.snapshot()
        with lake.storage.replacing_folder("checkpoints/demo") as aside:
            shutil.copytree(model_folder(lake, profile, "untrained"), aside, dirs_exist_ok=True)
        assert not here.weights_are_current() and state_of(lake, profile, "demo") != state
        history.log_run(lake, "run-2", 0, {})
        end = time.monotonic() + 60
        while service.snapshot() is here and time.monotonic() < end:
            time.sleep(0.05)
        found = service.submit(query, page).result(60)
        assert found.checkpoint != expected.checkpoint and service.snapshot().weights_are_current()
    finally:
        service.stop()
