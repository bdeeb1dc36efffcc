"""Checks that no row is lost, made up or doubled between two stages, shard by shard.

Row counts come from the Parquet footers alone, so they cost milliseconds whatever the size of the lake. A shard is checked once
both tables are there and the later one was computed from the earlier one as it is now.
"""

from collections.abc import Callable, Iterator

from assets.checks.sql import ANY_PICTURE_IN_BAD, Check, named_first, sql_check
from mmret.freshness.survey import Snapshot
from mmret.lake import Facts, Lake
from mmret.lake.inputs import read_inputs
from mmret.schemas import SIGNALS

Expected = Callable[[dict[str, Facts]], int]


def _conserved(asset: str, upstream: str, rule: str, expected: Expected, *, blocking: bool = False, also: str = "") -> Check:
    """``expected`` gives, from the facts of the shard's tables, the rows that ``upstream`` must have."""

    def violations(lake: Lake) -> Iterator[tuple[str, int, int]]:
        store = Snapshot(lake)
        for shard in store.partitions(asset):
            facts = {t: store.facts(t, shard) for t in (asset, upstream, *([also] if also else []))}
            if any(f is None for f in facts.values()) or not _made_from(store, facts[asset], upstream, shard):
                continue
            if facts[upstream].rows != (want := expected(facts)):
                yield shard, facts[upstream].rows, want

    return Check(
        asset,
        f"rows_of_{upstream}_are_conserved",
        f"{rule}, shard by shard. Shown: shard, rows of {upstream}, expected.",
        lambda lake, connection, profile: list(violations(lake)),
        blocking,
        partitions=named_first,
    )


def _made_from(lake: Lake, facts: Facts, upstream: str, shard: str) -> bool:
    read = read_inputs(lake, facts.inputs)
    if read is None:  # made before inputs were kept
        return True
    now = lake.facts(upstream, shard)
    seen = read["upstream"].get(upstream, {}).get(shard)
    if seen is None or now is None:
        return seen is None
    return seen[0] in (now.digest, *(digest for digest, _ in now.since.values()))


manifest_into_images = _conserved(
    "images",
    "corpus_manifest",
    "Manifest rows = images + rejects",
    lambda f: f["images"].rows + f["rejects"].rows,
    blocking=True,
    also="rejects",
)
captionless_into_written_captions = sql_check(
    "written_captions",
    "pictures_without_caption_are_conserved",
    "Every picture whose source gives no caption is a row with a status, in the shards where captions are found or written.",
    """
    SELECT m.shard, m.position, m.path FROM corpus_manifest m
    ANTI JOIN written_captions w ON w.shard = m.shard AND w.position = m.position
    WHERE m.reason = 'no_caption' AND m.image_id IS NOT NULL AND m.shard IN (SELECT DISTINCT shard FROM written_captions)""",
    where="shard IN (SELECT shard FROM bad)",
    blocking=True,
)
written_captions_into_images = sql_check(
    "images",
    "written_captions_are_conserved",
    "Every picture for which a caption was found or written is an image with that caption, or a reject with its reason.",
    """
    SELECT w.shard, w.position, w.path FROM written_captions w
    LEFT JOIN images i ON i.shard = w.shard AND i.position = w.position
    LEFT JOIN rejects r ON r.shard = w.shard AND r.position = w.position
    WHERE w.status = 'ok' AND r.position IS NULL
      AND (i.caption IS DISTINCT FROM w.text OR i.caption_origin IS DISTINCT FROM w.origin)
      AND w.shard IN (SELECT DISTINCT shard FROM images)""",
    where="shard IN (SELECT shard FROM bad)",
    blocking=True,
)
images_into_clip_image, images_into_dino_image, images_into_caption = (
    _conserved(s, "images", f"Every image has one {s} vector", lambda f, s=s: f[s].rows, blocking=True) for s in SIGNALS
)
pairs_into_descriptions = _conserved(
    "descriptions", "pairs", "Every pair is a row with a status", lambda f: f["descriptions"].rows, blocking=True
)
descriptions_into_instructions = _conserved(
    "instructions", "descriptions", "Every description is a row with a status", lambda f: f["instructions"].rows, blocking=True
)
pairs_into_triplets = _conserved(
    "triplets",
    "pairs",
    "Pairs = triplets + pairs left out with a reason",
    lambda f: f["triplets"].rows + sum(f["triplets"].notes.get("left_out", {}).values()),
)


def _unique(table: str, key: str, what: str) -> Check:
    return sql_check(
        table,
        f"{key}s_are_unique",
        what,
        f"SELECT {key}, count(*) AS n FROM {table} GROUP BY {key} HAVING count(*) > 1",
        where=f"{key} IN (SELECT {key} FROM bad)",
        blocking=True,
    )


clip_image_ids, dino_image_ids, caption_ids = (_unique(s, "image_id", "An image has one vector.") for s in SIGNALS)
pair_ids = _unique("pairs", "pair_id", "An ordered pair of pictures is one row.")
description_ids = _unique("descriptions", "pair_id", "A pair is described once.")
instruction_ids = _unique("instructions", "pair_id", "A pair has its instructions once.")
triplet_ids = _unique("triplets", "pair_id", "A pair is one triplet.")

neighbours_are_images = sql_check(
    "neighbours",
    "neighbours_are_images",
    "Both ends of a neighbourhood are images of the corpus.",
    """
    SELECT id FROM (SELECT DISTINCT query_id AS id FROM neighbours UNION SELECT DISTINCT target_id FROM neighbours) ids
    ANTI JOIN images ON images.image_id = ids.id""",
    where="query_id IN (SELECT id FROM bad) OR target_id IN (SELECT id FROM bad)",
)

triplets_are_images = sql_check(
    "triplets",
    "triplets_are_images",
    "Queries, targets and hard negatives of the training set are images of the corpus.",
    """
    SELECT id FROM (SELECT query_id AS id FROM triplets UNION SELECT target_id FROM triplets
                    UNION SELECT unnest(hard_negatives) FROM triplets) ids
    ANTI JOIN images ON images.image_id = ids.id""",
    where=ANY_PICTURE_IN_BAD.format("id"),
    blocking=True,
)

triplets_are_pairs = sql_check(
    "triplets",
    "triplets_are_pairs",
    "A triplet has the pictures of the pair it was made from.",
    """
    SELECT t.pair_id FROM triplets t LEFT JOIN pairs p USING (pair_id)
    WHERE p.query_id IS DISTINCT FROM t.query_id OR p.target_id IS DISTINCT FROM t.target_id""",
    where="pair_id IN (SELECT pair_id FROM bad)",
    blocking=True,
)

sources_are_mostly_taken = sql_check(
    "rejects",
    "sources_are_mostly_taken",
    "A source of which more than a tenth of the rows was rejected deserves a look.",
    """
    WITH listed AS (
        SELECT m.root, (m.reason IS NOT NULL AND (m.reason != 'no_caption' OR i.image_id IS NULL))::INT AS is_refused
        FROM corpus_manifest m LEFT JOIN images i ON i.shard = m.shard AND i.position = m.position
        WHERE m.reason IS NULL OR m.reason NOT IN ('duplicate', 'opted_out', 'server_opted_out'))
    SELECT root, count(*) AS n, sum(is_refused) AS refused FROM listed GROUP BY root HAVING sum(is_refused) > 0.1 * count(*)""",
    warn=True,
)
