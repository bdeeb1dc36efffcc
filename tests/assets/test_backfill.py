"""`mmret backfill`: asks for what is missing or stale, says what went wrong, and its exit code is the backfill's."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from typer.testing import CliRunner

from mmret.cli import app
from mmret.cli.backfill import failed_partitions, select_partitions, selectors
from mmret.errors import UserError
from mmret.lake.configuration import resolve
from mmret.stages import names_of
from tests.freshness.empty_tables import current_lake


@pytest.fixture
def dagster():
    """A webserver that answers GraphQL by what a query mentions; what it was asked is kept."""
    answers, asked = {}, []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            name = next(n for n in answers if n in body["query"])
            given = answers[name].pop(0) if isinstance(answers[name], list) else answers[name]
            data = json.dumps(given if "errors" in given else {"data": {name: given}}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.answers, server.asked, server.url = answers, asked, f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


def call(lake, *arguments: str):
    done = CliRunner().invoke(app, ["backfill", "--lake", str(lake.root), *arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def state(status: str, done: int, failed: int = 0) -> dict:
    counts = {"numPartitionsTargeted": 2, "numPartitionsMaterialized": done, "numPartitionsFailed": failed}
    return {
        "__typename": "PartitionBackfill",
        "status": status,
        "error": None,
        "assetBackfillData": {"assetBackfillStatuses": [counts]},
    }


def test_selected_is_what_is_missing_or_stale_or_named(lake):
    assert select_partitions(lake, [], []) == {}
    lake.path("triplets", "shard-00001").unlink()
    assert select_partitions(lake, [], []) == {"triplets": ["shard-00001"], "tasks": ["shard-00001"]}
    assert select_partitions(lake, ["pairs"], []) == {}
    assert select_partitions(lake, ["images"], ["shard-00000"]) == {"images": ["shard-00000"]}
    assert select_partitions(lake, ["checkpoints"], ["demo"]) == {"checkpoints": ["demo"]}
    for stages, partitions, said in ((["nosuch"], [], "no stage nosuch"), ([], ["nosuch"], "no partition nosuch")):
        with pytest.raises(UserError, match=said):
            select_partitions(lake, stages, partitions)


def test_a_named_shard_is_asked_of_every_stage_that_has_to_do_with_it_and_of_no_other(lake):
    asked = select_partitions(lake, [], ["shard-00000"])
    assert set(names_of("shard")) - set(asked) == {"scores", "written_captions"}, "no scorer, and every picture has a caption"
    scorer = {"kind": "measured", "measure": "brightness"}
    lake.write_configuration(resolve(lake, overrides={"scores.light": scorer})[1])
    assert select_partitions(lake, ["scores"], ["shard-00000"]) == {"scores": ["shard-00000"]}


def test_selectors_name_rejects_with_images_and_no_partition_of_a_whole_table():
    asked = {s["assetKey"]["path"][0]: s["partitions"] for s in selectors({"images": ["a", "c"], "towers": ["all"]})}
    assert asked["towers"] is None and asked["images"] == asked["rejects"]
    assert asked["images"] == {"ranges": [{"start": "a", "end": "a"}, {"start": "c", "end": "c"}]}


def test_it_is_launched_and_waited_for(lake, dagster, monkeypatch):
    monkeypatch.setattr(sys.modules[select_partitions.__module__], "_POLL", 0)  # the package has the function under this name
    lake.path("triplets", "shard-00001").unlink()
    dagster.answers |= {
        "assetNodeOrError": {"__typename": "AssetNode", "partitionKeys": lake.shards()},
        "launchPartitionBackfill": {"__typename": "LaunchBackfillSuccess", "backfillId": "abc"},
        "partitionBackfillOrError": [state("REQUESTED", 0), state("REQUESTED", 1), state("COMPLETED_SUCCESS", 2)],
    }
    done = call(lake, "--url", dagster.url, "--wait")
    assert done.exit_code == 0 and "1 of 2 partitions" in done.output
    (launched,) = [a for a in dagster.asked if "LaunchBackfillParams" in a["query"]]
    assert [s["assetKey"]["path"] for s in launched["variables"]["params"]["partitionsByAssets"]] == [["triplets"], ["tasks"]]


def test_what_was_not_tried_because_something_before_it_failed_is_told_from_what_failed(lake, dagster):
    lake.path("pairs", "shard-00001").unlink()
    wanted = ["pairs", "descriptions", "instructions", "triplets", "tasks"]
    steps = [{"stepKey": "pairs", "status": "FAILURE"}, *({"stepKey": each, "status": "SKIPPED"} for each in wanted[1:])]
    run = {"tags": [{"key": "dagster/partition", "value": "shard-00001"}], "stepStats": steps}
    dagster.answers |= {
        "assetNodeOrError": {"__typename": "AssetNode", "partitionKeys": lake.shards()},
        "launchPartitionBackfill": {"__typename": "LaunchBackfillSuccess", "backfillId": "abc"},
        "partitionBackfillOrError": [state("COMPLETED_FAILED", 0, 5), {"__typename": "PartitionBackfill", "runs": [run, run]}],
    }
    done = call(lake, "--url", dagster.url, "--wait")
    assert done.exit_code == 1 and done.output.endswith("partitions, 1 failed, 4 not tried\n")


def test_a_failed_run_of_a_range_counts_each_partition_in_it_and_a_step_of_two_tables_both(dagster):
    steps = [{"stepKey": "images", "status": "FAILURE"}, {"stepKey": "clip_image", "status": "SUCCESS"}]
    tags = [{"key": f"dagster/asset_partition_range_{end}", "value": value} for end, value in (("start", "b"), ("end", "c"))]
    whole = {"tags": [], "stepStats": [{"stepKey": "towers", "status": "FAILURE"}]}
    dagster.answers["partitionBackfillOrError"] = {"runs": [{"tags": tags, "stepStats": steps}, whole]}
    found = failed_partitions(dagster.url, "abc", {"images": ["a", "b", "c", "d"], "clip_image": ["b"], "towers": ["all"]})
    assert found == {(table, part) for table in ("images", "rejects") for part in "bc"} | {("towers", "all")}


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"assetNodeOrError": {"__typename": "AssetNotFoundError"}}, "does not serve this project"),
        ({"assetNodeOrError": {"__typename": "AssetNode", "partitionKeys": ["shard-00000"]}}, "does not know shard-00001"),
        ({"assetNodeOrError": {"errors": [{"message": "Cannot query field"}]}}, "refused the request: Cannot query field"),
        (
            {
                "assetNodeOrError": {"__typename": "AssetNode", "partitionKeys": ["shard-00000", "shard-00001"]},
                "launchPartitionBackfill": {"__typename": "PythonError", "message": "no such asset"},
            },
            "did not take the backfill: no such",
        ),
    ],
)
def test_what_is_wrong_is_said(lake, dagster, answers, said):
    lake.path("triplets", "shard-00001").unlink()
    dagster.answers |= answers
    with pytest.raises(UserError, match=said):
        call(lake, "--url", dagster.url)


def test_a_recipe_that_the_server_does_not_know_is_not_launched(tmp_path, dagster):
    lake = current_lake(tmp_path / "lake")
    dagster.answers["assetNodeOrError"] = {"__typename": "AssetNode", "partitionKeys": lake.shards()}
    with pytest.raises(UserError, match="does not know demo of .* known_partitions registers"):
        call(lake, "--url", dagster.url, "--stage", "checkpoints", "--partition", "demo")


def test_without_a_server_it_says_how_to_start_one_and_a_dry_run_needs_none(lake, tmp_path):
    lake.path("triplets", "shard-00001").unlink()
    with pytest.raises(UserError, match="make ui"):
        call(lake, "--url", "http://127.0.0.1:9")
    dry = call(lake, "--dry-run", "--url", "http://127.0.0.1:9")
    assert dry.exit_code == 0 and "triplets" in dry.output
