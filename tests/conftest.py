"""What every test shares: no network, no Dagster home of the user's, and where the material beside the checkout lies."""

import os
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session")
def small_lake(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A lake of 180 scenes in two shards after one uninterrupted `mmret run`, and the summary it printed. Read only."""
    from tests.small_runs import first, run

    lake = tmp_path_factory.mktemp("small") / "lake"
    return lake, run(first(lake))
