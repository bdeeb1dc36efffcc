"""Lakes for the annotation tests: copies of the small one, with pairs and no answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def annotation(small_lake: tuple[Path, dict], tmp_path: Path):
    from tests.annotate.annotation_run import AnnotationRun

    return AnnotationRun(shutil.copytree(small_lake[0], tmp_path / "lake"))


@pytest.fixture
def reference(small_lake: tuple[Path, dict], tmp_path: Path):
    """The same shard once more, to compare with."""
    from tests.annotate.annotation_run import AnnotationRun

    return AnnotationRun(shutil.copytree(small_lake[0], tmp_path / "reference"))
