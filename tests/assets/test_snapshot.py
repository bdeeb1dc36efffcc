"""The graph is the one that ``definitions.txt`` lists: a change of it is seen in review."""

import difflib

import dagster as dg

from assets.definitions import defs
from tests.assets.snapshot import FILE, RENEW, described


def test_the_graph_is_as_it_is_written_down():
    known, now = FILE.read_text().splitlines(), described(defs).splitlines()
    changes = "\n".join(line for line in difflib.unified_diff(known, now, "written down", "now", lineterm="", n=2))
    assert known == now, f"the graph has changed; where that is meant, run {RENEW} and commit the file:\n{changes}"


def test_what_a_reviewer_looks_for_is_in_it():
    @dg.asset(group_name="g", deps=["b"], pool="gpu", owners=["team:t"], partitions_def=dg.DynamicPartitionsDefinition(name="p"))
    def a() -> None: ...

    @dg.asset_check(asset=a, blocking=True)
    def holds() -> dg.AssetCheckResult: ...

    @dg.asset
    def b() -> None: ...

    job = dg.define_asset_job("some", [b])
    known = dg.Definitions(
        assets=[a, b],
        asset_checks=[holds],
        jobs=[job],
        schedules=[dg.ScheduleDefinition(name="nightly", job=job, cron_schedule="0 1 * * *")],
        executor=dg.in_process_executor,
    )
    text = described(known)
    assert "asset a\n  group: g\n  deps: b\n  partitions: p\n  pool: gpu\n  owners: team:t\n  check holds (blocking)\n" in text
    assert "job some\n  assets: b\n" in text and "schedule nightly\n  cron: 0 1 * * *\n  job: some\n  starts: stopped\n" in text
