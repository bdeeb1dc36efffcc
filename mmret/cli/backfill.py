"""``mmret backfill``: launch a partitioned backfill in a running Dagster UI, for which Dagster has no command of its own.

Posts the mutation the UI's own *Materialize* dialogue posts, so the daemon runs it, the Backfills page shows it and backfill
policies hold. Cost: two HTTP requests; the daemon looks every 30 s.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from mmret.cli.lake_option import lake_option
from mmret.errors import UserError
from mmret.freshness.survey import partitions_of, survey
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.stages import FINGERPRINTED_STAGES, STAGES, UNPARTITIONED, assets_of

LAUNCH = """mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  ... on PartitionKeysNotFoundError { message } ... on UnauthorizedError { message } } }"""
STATE = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) { __typename
  ... on PartitionBackfill { status error { message }
    assetBackfillData { assetBackfillStatuses {
      ... on AssetPartitionsStatusCounts { numPartitionsTargeted numPartitionsMaterialized numPartitionsFailed }
      ... on UnpartitionedAssetStatus { materialized failed } } } }
  ... on BackfillNotFoundError { message } ... on PythonError { message } } }"""
RUNS = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) { __typename
  ... on PartitionBackfill { runs { tags { key value } stepStats { stepKey status } } } } }"""
PARTITIONS = "query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { __typename ... on AssetNode { partitionKeys } } }"
_DONE = {"COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED"}
_POLL = 3.0

Selection = dict[str, list[str]]
"""Table to partitions; ``["all"]`` for a table that has only one."""


def post(url: str, query: str, **variables: Any) -> dict[str, Any]:
    """``data`` of a GraphQL answer. Raises UserError where no Dagster webserver answers at ``url``."""
    import httpx

    try:
        answer = httpx.post(f"{url.rstrip('/')}/graphql", json={"query": query, "variables": variables}, timeout=60)
        answer.raise_for_status()
        body = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise UserError(
            f"no Dagster UI answers at {url} ({error or type(error).__name__}): start one with `make ui LAKE=...`, "
            "or name another with --url"
        ) from None
    if body.get("errors"):
        raise UserError(f"Dagster at {url} refused the request: {body['errors'][0]['message']}")
    return body["data"]


def select_partitions(lake: Lake, stages: Iterable[str], names: Iterable[str]) -> Selection:
    """Partitions of ``stages`` (empty: all up to triplets and tasks) that are missing or stale, with those that follow from them.

    Where ``names`` are given, the partitions of these names instead, current or not, of stages that have to do with them. Raises
    UserError for a stage or partition that does not exist.
    """
    profile = resolve(lake)[0]
    stages, names = list(stages), list(names)
    if unknown := [s for s in stages if s not in FINGERPRINTED_STAGES]:
        raise UserError(f"no stage {', '.join(unknown)}; there are {', '.join(FINGERPRINTED_STAGES)}")
    wanted = stages or [t for t, stage in FINGERPRINTED_STAGES.items() if stage.partitions != "recipe"]
    if not names:
        found: Selection = {}
        for status in survey(lake, profile):
            if status.table in wanted and status.state != "current":
                found.setdefault(status.table, []).append(status.partition)
        return found
    existing = {t: list(profile.recipes) if STAGES[t].partitions == "recipe" else partitions_of(lake, profile, t) for t in wanted}
    if unknown := [p for p in names if not any(p in have for have in existing.values())]:
        raise UserError(f"no partition {', '.join(unknown)} of {', '.join(wanted)}; shards: {', '.join(lake.shards())}")
    chosen = {t: [p for p in have if p in names and STAGES[t].applies(lake, profile, p)] for t, have in existing.items()}
    return {t: partitions for t, partitions in chosen.items() if partitions}


def selectors(selection: Selection) -> list[dict[str, Any]]:
    """``selection`` as GraphQL's ``partitionsByAssets``, with every asset that its stages write."""
    chosen = {asset: parts for stage, parts in selection.items() for asset in assets_of([stage])}
    return [
        {
            "assetKey": {"path": [table]},
            "partitions": None if parts == [UNPARTITIONED] else {"ranges": [{"start": p, "end": p} for p in parts]},
        }
        for table, parts in chosen.items()
    ]


def launch(url: str, selection: Selection, title: str) -> str:
    """Start the backfill; its id. Raises UserError with the server's reason where it refuses."""
    params = {
        "partitionsByAssets": selectors(selection),
        "title": title[:100],
        "tags": [{"key": "mmret/launched_by", "value": "mmret backfill"}],
    }
    result = post(url, LAUNCH, params=params)["launchPartitionBackfill"]
    if "backfillId" not in result:
        raise UserError(f"Dagster did not take the backfill: {result.get('message') or result['__typename']}")
    return result["backfillId"]


def backfill_progress(url: str, backfill_id: str) -> tuple[str, int, int, int]:
    """(status, partitions done, failed, all) of a backfill. Dagster counts as failed what it did not try, since something that it
    reads had failed: :func:`failed_partitions` tells them apart."""
    found = post(url, STATE, id=backfill_id)["partitionBackfillOrError"]
    if "status" not in found:
        raise UserError(f"backfill {backfill_id}: {found.get('message') or found['__typename']}")
    each = (found["assetBackfillData"] or {}).get("assetBackfillStatuses", [])
    done = sum(s.get("numPartitionsMaterialized", int(s.get("materialized", False))) for s in each)
    failed = sum(s.get("numPartitionsFailed", int(s.get("failed", False))) for s in each)
    return found["status"], done, failed, sum(s.get("numPartitionsTargeted", 1) for s in each)


def failed_partitions(url: str, backfill_id: str, selection: Selection) -> set[tuple[str, str]]:
    """(table, partition) of those of ``selection`` whose step ran in the backfill and failed."""
    found = post(url, RUNS, id=backfill_id)["partitionBackfillOrError"]
    failed = set()
    for run in found.get("runs", []):
        tags = {tag["key"]: tag["value"] for tag in run["tags"]}
        one = tags.get("dagster/partition")
        first, last = (tags.get(f"dagster/asset_partition_range_{end}", one) for end in ("start", "end"))
        for stage in (step["stepKey"] for step in run["stepStats"] if step["status"] == "FAILURE"):
            partitions = [p for p in selection.get(stage, []) if first is None or last is None or first <= p <= last]
            failed |= {(table, partition) for table in assets_of([stage]) for partition in partitions}
    return failed


def _check_lake(url: str, lake: Lake, selection: Selection) -> None:
    """Raises UserError where the server does not know the lake's shards, or recipes of ``selection``: it serves another lake."""
    wanted = {"images": lake.shards()} | {t: parts for t, parts in selection.items() if STAGES[t].partitions == "recipe"}
    for table, partitions in wanted.items():
        node = post(url, PARTITIONS, key={"path": [table]})["assetNodeOrError"]
        if "partitionKeys" not in node:
            raise UserError(f"the Dagster at {url} does not serve this project: start it with `make ui LAKE={lake.address}`")
        if absent := [p for p in partitions if p not in node["partitionKeys"]]:
            raise UserError(
                f"the Dagster at {url} does not know {absent[0]} of {lake.address}: is it serving another lake? If not, its sensor "
                "known_partitions registers shards and recipes within a minute, and materialising corpus_manifest there at once"
            )


def backfill(
    lake: Annotated[str, lake_option(" that the UI serves")],
    stage: Annotated[
        list[str] | None, typer.Option(help="only this stage; again for more. Default: all up to triplets and tasks")
    ] = None,
    partition: Annotated[
        list[str] | None,
        typer.Option(help="this shard or recipe, current or not; again for more. Default: what is missing or stale"),
    ] = None,
    url: Annotated[str, typer.Option(help="of the running Dagster UI")] = "http://127.0.0.1:3000",
    wait: Annotated[bool, typer.Option("--wait", help="until it has ended, with progress; exit code 1 if it failed")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be launched, and launch nothing")] = False,
) -> None:
    """Launch a backfill of what is missing or stale in a running Dagster UI (`make ui`)."""
    store = Lake(lake)
    if not store.shards():
        raise UserError(
            f"{store.address} has no shards yet: seal its corpus first, with `mmret run --lake {lake}` or by "
            "materializing corpus_manifest in the UI"
        )
    selection = select_partitions(store, stage or [], partition or [])
    for table, parts in selection.items():
        typer.echo(f"{table:<14}{len(parts):>6}  {parts[0]}{f' … {parts[-1]}' if len(parts) > 1 else ''}")
    if not selection:
        typer.echo("nothing is missing or stale")
        return
    if dry_run:
        return
    _check_lake(url, store, selection)
    total = sum(map(len, selection.values()))
    backfill_id = launch(url, selection, f"mmret backfill: {total} partitions of {', '.join(selection)}")
    typer.echo(f"backfill {backfill_id} launched: {url.rstrip('/')}/runs/b/{backfill_id}")
    if wait and not _wait(url, backfill_id, selection):
        raise typer.Exit(1)


def _wait(url: str, backfill_id: str, selection: Selection) -> bool:
    """Wait for the end of the backfill, with a line on stderr whenever a partition is done. Whether it succeeded."""
    last: tuple[str, int, int, int] | None = None
    while True:
        now = backfill_progress(url, backfill_id)
        if now != last:
            status, done, failed, total = last = now
            beside = ""
            if failed:
                tried = min(failed, len(failed_partitions(url, backfill_id, selection)))
                beside = f", {tried} failed" + (f", {failed - tried} not tried" if failed > tried else "")
            typer.echo(f"{status.lower()}: {done} of {total} partitions{beside}", err=True)
        if now[0] in _DONE:
            return now[0] in ("COMPLETED", "COMPLETED_SUCCESS")
        time.sleep(_POLL)
