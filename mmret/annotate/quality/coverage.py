"""What the chosen pairs change, as far as their captions tell: how many words, which kinds of words, and how evenly.

A training set whose pairs all change the same thing teaches that one thing, and no score shows it. No list of attributes is
read: words are one *kind* where the corpus itself puts one in place of the other in captions that are otherwise equal (red, blue
and green before the same circle). Cost: linear in pairs and captions, a second or two for 24,000 pairs; more than ``SAMPLE`` pairs
are sampled by their ids, which are hashes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmret.annotate.quality.word_kinds import WordKinds, words_of
from mmret.ingest.pictures.pair_images import read_images_of
from mmret.lake import Lake
from mmret.schemas import SIGNALS

SAMPLE = 50_000
UNDERSTOOD = 0.5
"""Least share of the longer caption's words that must be in the other too, or be replaced there by a word of the same kind: what is
left of less is not a difference that could be told."""
SHOWN = 12
"""Kinds that people are shown one by one."""
LEAST_TOLD = 0.01
"""Of a smaller share of told pairs, people are not shown how many words change."""
WORDS = ("1", "2", "3", "4+")
TELLS_LITTLE = "the captions of this corpus tell few differences: targets are chosen by nearness"


def lake_coverage(lake: Lake, shards: Iterable[str] | None = None) -> dict[str, Any] | None:
    """:func:`coverage` of table ``pairs`` in ``shards`` (None: all that have any); None where there are no pairs.

    >>> lake_coverage(lake)["kinds"][0]
    {'name': 'circle, square, star ...', 'words': ['circle', ...], 'replaced': 0.88, 'added_or_removed': 0.0}
    """
    shards = lake.partitions("pairs") if shards is None else list(shards)
    number = sum(facts.rows for shard in shards if (facts := lake.facts("pairs", shard)))
    if not number:
        return None
    columns = ["pair_id", "query_id", "target_id", "signals"]
    sampled = pa.concat_tables([_sample(lake.read("pairs", shard, columns), number) for shard in shards])
    return coverage(sampled, read_images_of(lake, sampled, ["caption"])) | {"pairs": number}


def coverage(pairs: pa.Table, captions: pa.Table) -> dict[str, Any]:
    """JSON-ready shares, 0 to 1, from ``pairs`` (pair_id, query_id, target_id text; signals lists of text) and ``captions``
    (image_id, caption text).

    ``pairs``: how many there are, and ``looked_at`` how many of them were; all shares are of these. ``told``: share of the pairs
    whose captions differ, have a word in common, and share or replace in kind at least half of the longer one's words;
    ``unlike``, ``same``, ``no_caption``: the others. Of the told pairs: ``words``, shares by how many content words change;
    ``kinds``, the most frequent first, with ``name``, ``words`` (its most frequent ten), ``replaced`` and ``added_or_removed``:
    shares of the pairs in which a word of the kind was replaced by another of it, or came or went without one; ``other``: the same
    of words that have no kind; ``only_added_or_removed``: share of the pairs that replace nothing; ``effective_kinds``: exp of the
    entropy of what is replaced: 1 where all pairs replace the same kind, n where n kinds are replaced equally often, 0 where
    no kind is. ``by_signal``: that figure for the pairs of each signal. ``says``: one sentence where the captions of most
    pairs tell nothing, else null.
    """
    looked_at = _sample(pairs, pairs.num_rows)
    texts = dict(zip(captions["image_id"].to_pylist(), captions["caption"].to_pylist(), strict=True))
    named = dict.fromkeys([*looked_at["query_id"].to_pylist(), *looked_at["target_id"].to_pylist()])
    kinds = WordKinds({image_id: words_of(texts.get(image_id) or "") for image_id in named})
    tally = _Tally(kinds)
    for query, target, signals in zip(*(looked_at[c].to_pylist() for c in ("query_id", "target_id", "signals")), strict=True):
        tally.add(query, target, signals)
    return {"pairs": pairs.num_rows, "looked_at": looked_at.num_rows, **tally.numbers()}


def _sample(pairs: pa.Table, number: int) -> pa.Table:
    """Those of ``pairs`` that are in a sample of about ``SAMPLE`` of ``number``: the lowest ids, which are hashes."""
    if number <= SAMPLE:
        return pairs
    below = f"{int(SAMPLE / number * 16**12):012x}"
    return pairs.filter(pc.less(pairs["pair_id"], below))


class _Tally:
    def __init__(self, kinds: WordKinds):
        self.kinds = kinds
        self.outcomes: Counter[str] = Counter()
        self.sizes: Counter[str] = Counter()
        self.replaced: Counter[int | None] = Counter()
        self.one_sided: Counter[int | None] = Counter()
        self.nothing_replaced = 0
        self.by_signal: dict[str, Counter] = {signal: Counter() for signal in SIGNALS}

    def add(self, query: str, target: str, signals: Iterable[str]) -> None:
        old, new = self.kinds.bags[query], self.kinds.bags[target]
        if not old or not new or old == new:
            self.outcomes["same" if old and new else "no_caption"] += 1
            return
        shared, longest = len(old & new), max(len(old), len(new))
        changes = self.kinds.changes(old - new, new - old)
        told = shared and shared + changes.known >= UNDERSTOOD * longest
        self.outcomes["told" if told else "unlike"] += 1
        if not told:
            return
        self.sizes[WORDS[min(longest - shared, len(WORDS)) - 1]] += 1
        self.replaced.update(changes.replaced)
        self.one_sided.update(changes.one_sided)
        self.nothing_replaced += not changes.replaced
        for signal in signals:
            self.by_signal[signal].update(changes.replaced)

    def numbers(self) -> dict[str, Any]:
        everyone, told = max(1, self.outcomes.total()), max(1, self.outcomes["told"])
        outcomes = {name: self.outcomes[name] / everyone for name in ("told", "unlike", "same", "no_caption")}
        rows = [
            {
                **self.kinds.described(kind),
                "replaced": self.replaced[kind] / told,
                "added_or_removed": self.one_sided[kind] / told,
            }
            for kind in range(self.kinds.count)
        ]
        return {
            **outcomes,
            "words": {size: self.sizes[size] / told for size in WORDS},
            "kinds": sorted(rows, key=lambda row: (-row["replaced"], -row["added_or_removed"], row["name"])),
            "other": {"replaced": self.replaced[None] / told, "added_or_removed": self.one_sided[None] / told},
            "only_added_or_removed": self.nothing_replaced / told,
            "effective_kinds": effective(_of_kinds(self.replaced)),
            "by_signal": {signal: effective(_of_kinds(counts)) for signal, counts in self.by_signal.items()},
            "says": TELLS_LITTLE if self.outcomes.total() and outcomes["told"] < 0.5 else None,
        }


def _of_kinds(counts: Mapping[int | None, int]) -> dict[int, int]:
    return {kind: n for kind, n in counts.items() if kind is not None}


def kinds_shown(found: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Rows for people: name, share replaced and share added or removed, of a :func:`coverage`; rare kinds and words without a kind
    in one row each; none where no kinds are known."""
    kinds, other = found["kinds"], found["other"]
    rows = [(kind["name"], kind["replaced"], kind["added_or_removed"]) for kind in kinds[:SHOWN]]
    if further := kinds[SHOWN:]:
        most = (max(kind[part] for kind in further) for part in ("replaced", "added_or_removed"))
        rows.append((f"{len(further)} further kinds, each at most", *most))
    if kinds and any(other.values()):
        rows.append(("words without a kind", other["replaced"], other["added_or_removed"]))
    return rows


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What a :func:`coverage` says beside its table, in plain words."""
    looked_at = found["looked_at"]
    told = [f"{found['told']:.1%} of {looked_at:,} pairs have captions that tell a difference"]
    if looked_at < found["pairs"]:
        told[0] += f" (a sample of {found['pairs']:,}, drawn by hash)"
    reasons = {"unlike": "share too little", "same": "are the same", "no_caption": "are missing"}
    told += [f"in {found[name]:.1%} they {reason}" for name, reason in reasons.items() if found[name]]
    lines = ["; ".join(told) + "."]
    if found["told"] >= LEAST_TOLD:
        words = ", ".join(f"{size} in {share:.1%}" for size, share in found["words"].items())
        lines.append(f"Words changed: {words} of these pairs; {found['only_added_or_removed']:.1%} only add or remove.")
    if kinds := len(found["kinds"]):
        even = f"they are replaced as evenly as {found['effective_kinds']:.1f} equally frequent ones would be."
        lines.append(f"Kinds of words that the captions have: {kinds:,}" + (f"; {even}" if found["effective_kinds"] else "."))
    else:
        lines.append("Kinds of words cannot be told: too few captions are equal but for one word.")
    return lines + ([f"{found['says'][0].upper()}{found['says'][1:]}."] if found["says"] else [])


def effective(counts: Mapping[Any, int]) -> float:
    """Effective number of kinds: exp of the Shannon entropy of ``counts`` (Hill's number of order 1); 0 where all are 0.

    >>> effective({"red": 5, "blue": 5}), effective({"red": 10, "blue": 0})
    (2.0, 1.0)
    """
    shares = [n / sum(counts.values()) for n in sorted(counts.values()) if n]
    return math.exp(-sum(share * math.log(share) for share in shares)) if shares else 0.0
