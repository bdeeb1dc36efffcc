"""Invariants: what became no row is counted by kind with its first example; a listing that was not made takes nothing away; a lake
in which nothing is remarked has no file for it, and noticing something computes nothing again."""

from __future__ import annotations

import pytest

from mmret.ingest.remarks import PARTITION, Remarks, write_remarks
from mmret.lake import Lake


def collected(**counts: int) -> Remarks:
    remarks = Remarks()
    for kind, count in counts.items():
        for i in range(count):
            remarks.add(kind, f"{kind}-{i}", f"detail {i}")
    return remarks


def kinds(lake: Lake) -> list[tuple[str, str, int]]:
    return [(r["root"], r["remark"], r["count"]) for r in lake.read("remarks").to_pylist()]


def test_remarks_are_counted_by_kind_with_the_first_example_most_frequent_first():
    found = list(collected(rare=1, often=3))
    assert [(r.remark, r.count, r.path, r.detail) for r in found] == [
        ("often", 3, "often-0", "detail 0"),
        ("rare", 1, "rare-0", "detail 0"),
    ]


def test_names_that_cannot_be_stored_are_escaped(tmp_path):
    remarks = Remarks()
    remarks.add("bad", "a\udcff\0" + "x" * 5000)
    write_remarks(Lake(tmp_path), {"r": remarks}, ["r"], "")
    stored = Lake(tmp_path).read("remarks")["path"][0].as_py()
    assert stored.startswith("a\\udcff\\0x") and len(stored) == 500


def test_a_source_that_was_not_listed_keeps_its_remarks_and_one_that_is_gone_loses_them(tmp_path):
    lake = Lake(tmp_path)
    write_remarks(lake, {"a": collected(x=2), "b": collected(y=1)}, ["a", "b"], "")
    write_remarks(lake, {"b": collected(z=5)}, ["a", "b"], "")
    assert kinds(lake) == [("b", "z", 5), ("a", "x", 2)]
    write_remarks(lake, {"b": collected(z=5)}, ["b"], "")
    assert kinds(lake) == [("b", "z", 5)]
    write_remarks(lake, {"b": Remarks()}, ["b"], "")
    assert kinds(lake) == [] and lake.facts("remarks", PARTITION).rows == 0


@pytest.mark.parametrize("remarks", [Remarks(), collected(x=1)], ids=["none", "one"])
def test_the_same_remarks_again_write_nothing(tmp_path, remarks: Remarks):
    lake = Lake(tmp_path)
    write_remarks(lake, {"a": remarks}, ["a"], "")
    written = lake.facts("remarks", PARTITION)
    assert (written is None) == (not len(remarks))
    write_remarks(lake, {"a": remarks}, ["a"], "")
    again = lake.facts("remarks", PARTITION)
    assert (again and again.written) == (written and written.written)
