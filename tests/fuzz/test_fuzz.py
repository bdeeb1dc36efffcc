"""Readers of other people's files, tried with files that are nearly right: a fixed number of cases, the same each time.

`make fuzz` tries others for an hour (:mod:`tests.fuzz.__main__`); each fault that it found is kept in ``faults/``.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.targets import TARGETS, remove_folder

FAULTS = sorted((Path(__file__).parent / "faults").glob("*/*.txt"))


@pytest.fixture(scope="module", autouse=True)
def folder():
    yield
    remove_folder()


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_the_bytes_nothing_is_lost_and_only_meant_errors_are_seen(name: str):
    target = TARGETS[name]

    @settings(
        max_examples=target.examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.cases)
    def holds(case: object) -> None:
        target.check(case)

    holds()


@pytest.mark.parametrize("path", FAULTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_fault_that_was_found_is_mended(path: Path):
    TARGETS[path.parent.name].check(ast.literal_eval(path.read_text()))
