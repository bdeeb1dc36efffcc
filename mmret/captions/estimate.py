"""What captions by a model would cost, before anything is spent. Sends nothing.

Counts the pictures that want a caption and have none in their file that was seen; before the first run nobody has looked into the
files, so a few may turn out to need no request. Costs the keys of a sample (0.2 ms each) and one look-up.
"""

from __future__ import annotations

import pyarrow as pa

from mmret.annotate.estimate import PAIRS, Estimate, estimate_requests
from mmret.annotate.store import AnswerStore
from mmret.captions.captioner import captioning_of, load_captioner
from mmret.captions.wanting import TABLE, has_rows_to_caption, rows_to_caption
from mmret.hashing import uniform
from mmret.lake import Lake
from mmret.settings import Profile


def estimate_captions(lake: Lake, profile: Profile) -> Estimate | None:
    """Requests, tokens and cost of the captions that a model is to write; None where the settings ask none.

    >>> estimate_captions(lake, profile).cost
    """
    if not profile.captions.asks_model:
        return None
    total, ids = 0, []
    share = min(1.0, PAIRS / max(1, sum(facts.rows for shard in lake.shards() if (facts := lake.facts("corpus_manifest", shard)))))
    for shard in lake.shards():
        if has_rows_to_caption(lake, profile, shard):
            wanted = _to_ask(lake, profile, shard)
            total += len(wanted)
            ids += [each for each in wanted if share >= 1 or uniform("estimate captions", each) < share]
    settings = captioning_of(profile)
    pictures = pa.table({name: pa.array(ids, pa.string()) for name in ("pair_id", "query_id", "target_id")})
    found = estimate_requests("caption", pictures, load_captioner(settings), settings, AnswerStore(lake.storage))
    return found.scale(total / len(ids)) if ids else found


def _to_ask(lake: Lake, profile: Profile, shard: str) -> list[str]:
    """Ids of a shard's pictures that the model is asked about."""
    wanting = rows_to_caption(lake, shard, profile.captions)
    rows = [*(wanting.missing if profile.captions.missing == "model" else []), *wanting.poor]
    found: set[str] = set()
    if lake.facts(TABLE, shard) is not None:
        written = lake.read(TABLE, shard, ["image_id", "origin", "request_key"]).to_pylist()
        found = {
            row["image_id"] for row in written if row["request_key"] is None and row["origin"] in ("xmp", "iptc", "exif", "png")
        }
    return [row["image_id"] for row in rows if row["image_id"] not in found]
