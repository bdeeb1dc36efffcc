"""What must hold of annotated pairs, of triplets and of the rows of other tasks. A check that must hold reads a few columns of
Parquet through DuckDB; one of quality warns where a shard's noted measurement is beyond the limit that the settings give, and
reads one Parquet footer a shard."""

from collections.abc import Callable
from typing import Any

import dagster as dg
import pyarrow as pa

from assets.checks.sql import Check, named_first, sql_check
from mmret.lake import Facts, Lake
from mmret.settings import Profile, QualitySettings

three_instructions_and_the_query_first = sql_check(
    "triplets",
    "three_instructions_and_the_query_first",
    "Paper, section 3.2: three or more texts; the query image is the first negative.",
    """
    SELECT pair_id, len(texts) AS texts FROM triplets
    WHERE len(list_distinct(texts)) < 3 OR hard_negatives[1] <> query_id""",
    where="pair_id IN (SELECT pair_id FROM bad)",
    blocking=True,
)

every_pair_is_a_row = sql_check(
    "instructions",
    "every_pair_is_a_row",
    "No pair is lost: it has a row with a status in both annotation tables.",
    """
    SELECT p.pair_id FROM pairs p LEFT JOIN descriptions d USING (pair_id) LEFT JOIN instructions i USING (pair_id)
    JOIN images q ON q.image_id = p.query_id
    WHERE (d.status IS NULL OR i.status IS NULL)
      AND q.shard IN (SELECT q.shard FROM instructions JOIN pairs USING (pair_id) JOIN images q ON q.image_id = query_id)""",
    shards="SELECT DISTINCT shard FROM bad JOIN pairs USING (pair_id) JOIN images ON image_id = query_id",
)

no_hard_negative_is_right = sql_check(
    "tasks",
    "no_hard_negative_is_right",
    "Hard negatives are other pictures than the answer, under other captions, and each has its caption beside it.",
    """
    SELECT task_id, task FROM tasks
    WHERE list_contains(hard_negatives, target_id) OR list_contains(negative_captions, target_caption)
       OR len(hard_negatives) <> len(negative_captions)""",
    where="task_id IN (SELECT task_id FROM bad)",
    blocking=True,
)


def _kept_out_by_scores(lake: Lake, connection: Any, profile: Profile) -> None:
    """View ``kept_out``: the ids of pictures that a threshold of setting ``scores`` keeps out of every row."""
    from mmret.score.stage import found_wanting

    found = found_wanting(lake, lake.partitions("scores"), profile.scores)
    ids = pa.chunked_array([chunk for some in found.values() for chunk in some.chunks], pa.string())
    connection.register("kept_out", pa.table({"image_id": ids}))


every_captioned_picture_is_asked_for = sql_check(
    "tasks",
    "every_captioned_picture_is_asked_for",
    "No picture is lost: each with a caption is asked for by its caption, and its caption by it, unless it is a benchmark's or "
    "a score keeps it out.",
    """
    SELECT i.image_id, i.shard FROM images i
    LEFT JOIN (SELECT query_id, count(*) AS rows FROM tasks WHERE task IN ('text_to_image', 'image_to_text') GROUP BY 1) t
      ON t.query_id = i.image_id
    WHERE trim(coalesce(i.caption, '')) <> '' AND i.image_id NOT IN (SELECT image_id FROM leaks) AND coalesce(t.rows, 0) <> 2
      AND i.image_id NOT IN (SELECT image_id FROM kept_out)
      AND i.shard IN (SELECT shard FROM images JOIN tasks ON query_id = image_id)""",
    shards="SELECT DISTINCT shard FROM bad",
    prepare=_kept_out_by_scores,
)


def quality_check(
    name: str,
    description: str,
    measured: Callable[[Facts], float | None],
    within: Callable[[float, QualitySettings], bool],
) -> Check:
    """A check of ``triplets`` that warns for shards of which a figure is not ``within`` the limits.

    ``measured`` returns the figure from a shard's facts, None where it was not measured.
    """

    def figures(lake: Lake) -> dict[str, float | None]:
        return {s: measured(facts) for s in lake.partitions("triplets") if (facts := lake.facts("triplets", s))}

    def beyond(lake: Lake, _connection: Any, profile: Profile) -> list[tuple[str, float]]:
        return [(s, value) for s, value in figures(lake).items() if value is not None and not within(value, profile.quality)]

    def shown(lake: Lake) -> dict[str, Any]:
        found = figures(lake)
        return {"shards": dg.MetadataValue.json(found), "not measured": sum(value is None for value in found.values())}

    description += " Shown: shard, share."
    return Check("triplets", name, description, beyond, warn=True, partitions=named_first, measured=shown)


def _quality(facts: Facts) -> dict[str, Any]:
    return facts.notes.get("quality") or {}


def _redundancy(facts: Facts, which: str) -> float | None:
    return (_quality(facts).get("redundancy") or {}).get(which)


def _failed(facts: Facts) -> float | None:
    left_out = sum(facts.notes.get("left_out", {}).values())
    return left_out / (facts.rows + left_out) if facts.rows + left_out else None


texts_do_not_tell_the_target = quality_check(
    "texts_do_not_tell_the_target",
    "Share of targets ranked first by the instruction alone is at most quality.max_text_alone.",
    lambda facts: _redundancy(facts, "text_alone"),
    lambda share, limits: share <= limits.max_text_alone,
)

images_do_not_tell_the_target = quality_check(
    "images_do_not_tell_the_target",
    "Share of targets ranked first by the query image alone is at most quality.max_image_alone.",
    lambda facts: _redundancy(facts, "image_alone"),
    lambda share, limits: share <= limits.max_image_alone,
)

texts_are_varied = quality_check(
    "texts_are_varied",
    "distinct-2 of the instructions (different word pairs over all, on a sample) is at least quality.min_distinct_2.",
    lambda facts: _quality(facts).get("distinct_2"),
    lambda share, limits: share >= limits.min_distinct_2,
)

texts_do_not_tell_the_source = quality_check(
    "texts_do_not_tell_the_source",
    "Share of instructions that name what only the source has, and not to change it, is at most quality.max_leakage.",
    lambda facts: _quality(facts).get("leakage"),
    lambda share, limits: share <= limits.max_leakage,
)

most_pairs_have_texts = quality_check(
    "most_pairs_have_texts",
    "Share of pairs that did not become triplets is at most quality.max_failed.",
    _failed,
    lambda share, limits: share <= limits.max_failed,
)
