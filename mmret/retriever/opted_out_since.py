"""How many pictures that a checkpoint was trained on have opted out since: weights cannot forget them, so it has to be said.

Cost: nothing while no picture of the lake has opted out; otherwise the rows that the checkpoint was trained on are listed.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from mmret.curation.opted_out import opted_out_ids
from mmret.errors import UserError
from mmret.lake import Lake, history
from mmret.lake.as_of import open_as_of
from mmret.retriever.train.data_state import checkpoint_task_rows, trained_on
from mmret.settings import Recipe


def opted_out_since(lake: Lake, name: str) -> int:
    """Pictures in the rows that checkpoint ``name`` was trained on (queries, targets and hard negatives of all its tasks) that have
    opted out since, also where only a picture's caption was read.

    For naive pairs, which are not kept: pictures that it could draw from. Where the rows are gone: what was counted when they were
    dropped.

    >>> opted_out_since(lake, "demo")
    """
    gone = opted_out_ids(lake)
    facts = lake.facts("checkpoints", name)
    if not len(gone) or facts is None or not facts.rows:
        return 0
    noted = history.forgotten_states(lake).get(facts.notes.get("state", ""), 0)
    try:
        used = _pictures(lake, name, facts.notes.get("state", name))
    except UserError:
        return noted
    return max(noted, pc.sum(pc.is_in(used, value_set=gone)).as_py() or 0)


def all_opted_out_since(lake: Lake) -> dict[str, int]:
    """:func:`opted_out_since` of every checkpoint of the lake for which it is not 0."""
    return {name: n for name in lake.partitions("checkpoints") if (n := opted_out_since(lake, name))}


def _pictures(lake: Lake, name: str, state: str) -> pa.Array:
    recipe = Recipe.model_validate_json(lake.read("checkpoints", name)["settings"][0].as_py())
    if recipe.pair_source == "naive":
        return open_as_of(lake, state).read("images", columns=["image_id"])["image_id"].combine_chunks()
    composed = trained_on(lake, name).rows(["pair_id", "query_id", "target_id", "hard_negatives"])
    parts = (composed, checkpoint_task_rows(lake, name))
    columns = [
        column for rows in parts for column in (rows["query_id"], rows["target_id"], pc.list_flatten(rows["hard_negatives"]))
    ]
    return pc.unique(pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string()))
