"""What every test shares: no network, no Dagster home of the user's, and where the material beside the checkout lies."""

import json
import os
import sys
from pathlib import Path

import pytest

import mmret  # noqa: F401  its environment, before a test's first product: equal bits in every process

os.environ["HF_HUB_OFFLINE"] = "1"
for name in ("DAGSTER_HOME", "MMRET_LAKE"):
    os.environ.pop(name, None)

CHECKOUT = Path(__file__).resolve().parents[1]
SHARED = CHECKOUT.parent / "shared"


@pytest.fixture(scope="session")
def pictures() -> Path:
    """The folder of real pictures with captions beside the checkout; skips where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("no folder shared/data beside the checkout: real pictures are read in place, never copied")
    return folder


@pytest.fixture
def one_thread():
    """Small matrices are slower in two threads on busy cores, and sums have another order; for whoever asks by ``usefixtures``."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_lake(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> tuple[Path, dict]:
    """A lake of 180 scenes in two shards after one uninterrupted `mmret run`, and the summary it printed. Read only. Made
    once: whichever process of the tests needs it first makes it, and each has a copy."""
    import shutil

    from filelock import FileLock

    from tests.small_runs import first, run

    lake = tmp_path_factory.mktemp("small") / "lake"
    if worker_id == "master":
        return lake, run(first(lake))
    shared = tmp_path_factory.getbasetemp().parent
    summary = shared / "small-lake.json"
    with FileLock(shared / "small-lake.lock"):
        if not summary.exists():
            summary.write_text(json.dumps(run(first(shared / "small-lake" / "lake"))))
    return Path(shutil.copytree(shared / "small-lake" / "lake", lake)), json.loads(summary.read_text())


@pytest.fixture(autouse=True)
def no_dead_dagster_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster remembers the state storage of the instance entered last, also when that is gone, and then no definitions load.

    A look before the test does not do: an instance that was entered twice is left by the garbage collector, at any moment, and
    what it then restores is the storage of another one that may be gone, or whose temporary folder is.
    """
    if "dagster" not in sys.modules:
        return
    from dagster._core.storage.defs_state.base import DefsStateStorage, _current_storage

    of_before = _current_storage.get()

    def living() -> DefsStateStorage | None:
        storage = _current_storage.get()
        if storage is None or storage is of_before:
            return None
        reference = getattr(storage, "_instance_weakref", None)
        instance = reference() if reference is not None else None
        gone = reference is not None and (instance is None or not Path(instance.root_directory).exists())
        return None if gone else storage

    monkeypatch.setattr(DefsStateStorage, "get", living)


@pytest.fixture
def object_lake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """An empty lake in an object store in this process's memory (:mod:`tests.storage.stores`); its address opens it again."""
    from mmret.lake import Lake
    from tests.storage.stores import in_memory

    in_memory(monkeypatch, tmp_path)
    return Lake("s3://tests/lakes/small")
