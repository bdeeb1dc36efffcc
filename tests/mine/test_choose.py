"""Invariants: every retrieved pair has one fate and the counts add up; a negative is never the query, a target, a
near-duplicate or a namesake of either, whatever the neighbour lists leave out; identical captions are neither targets nor
negatives; the choice depends on no order of rows; a tenth more images leave more than 95 % of the pairs; pair scores are the
exact cosines."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmret.encode.bands import propose
from mmret.errors import UserError
from mmret.hashing import pair_id, uniform
from mmret.mine.choose import REASONS, choose
from mmret.mine.images import normalise_caption
from mmret.mine.negatives import above_band, beyond_full_lists
from mmret.mine.scores import pair_scores
from mmret.schemas import NEIGHBOURS, PAIRS, SIGNALS
from mmret.settings import BandSettings, MineSettings
from tests.mine.corpora import image_ids, mined, shards

IMAGES = [f"i{at:02d}" for at in range(14)]
BANDS_OF_THE_PAPER = dict.fromkeys(SIGNALS, BandSettings())
SCORELESS = {f"{signal}_score": pa.float32() for signal in SIGNALS}
scored = st.tuples(st.sampled_from(IMAGES), st.sampled_from(SIGNALS), st.sampled_from(IMAGES), st.booleans())


def no_scores(pairs: pa.Table) -> pa.Table:
    return pa.table({name: pa.nulls(pairs.num_rows, kind) for name, kind in SCORELESS.items()})


def ranked(edges) -> pa.Table:
    """Neighbours in the order given; above the band only a share of them."""
    seen, rows = Counter(), []
    for query, signal, target, above in edges:
        if query != target:
            rank = None if above else seen[query, signal]
            seen[query, signal] += not above
            rows.append({"query_id": query, "signal": signal, "target_id": target, "score": 0.9, "rank": rank, "above_band": above})
    return pa.Table.from_pylist(rows, NEIGHBOURS)


@settings(max_examples=150, deadline=None)
@given(
    draw=st.sampled_from(["together", "by_signal"]),
    edges=st.lists(scored, max_size=150, unique_by=lambda e: e[:3]),
    captions=st.lists(st.sampled_from("abcdef "), min_size=14, max_size=14),
    per_query=st.integers(1, 4),
    hard=st.integers(0, 4),
    used=st.sets(st.sampled_from(SIGNALS), min_size=1),
    few=st.integers(1, 9),
    seed=st.integers(0, 3),
    random=st.randoms(),
)
def test_choices_are_clean_complete_and_free_of_order(draw, edges, captions, per_query, hard, used, few, seed, random):
    found = ranked([e[:3] + (e[3] and uniform(*e) < 0.5,) for e in edges])
    names = dict(zip(IMAGES, captions, strict=True))
    options = MineSettings(
        k=few,
        signals=tuple(s for s in SIGNALS if s in used),
        targets_per_query=per_query,
        hard_negatives=hard,
        seed=seed,
        draw=draw,
    )
    pairs, counts = choose(found, names, no_scores, options)
    assert pairs.schema == PAIRS

    above, inside, excluded = defaultdict(set), defaultdict(set), defaultdict(set)
    for row in found.to_pylist():
        if row["above_band"]:
            above[row["query_id"]].add(row["target_id"])
            above[row["target_id"]].add(row["query_id"])
            excluded[row["query_id"]].add(row["target_id"])
        elif row["signal"] in used:
            inside[row["query_id"], row["target_id"]].add(row["signal"])
    retrieved = set(inside) | {(query, target) for query in excluded for target in excluded[query]}
    assert counts["retrieved"] == len(retrieved) == sum(counts[reason] for reason in REASONS)
    assert counts["chosen"] == pairs.num_rows
    queries = set(found["query_id"].to_pylist())
    assert counts["queries_without_candidates"] == len(queries) - len(set(pairs["query_id"].to_pylist()))

    targets = defaultdict(set)
    for row in pairs.to_pylist():
        targets[row["query_id"]].add(row["target_id"])

    def namesakes(one, other):
        return names[one] == names[other] != " "

    for row in pairs.to_pylist():
        query, target, negatives = row["query_id"], row["target_id"], row["hard_negatives"]
        assert row["pair_id"] == pair_id(query, target)
        assert row["signals"] == sorted(inside[query, target], key=SIGNALS.index)
        assert not namesakes(query, target) and target != query
        assert target not in excluded[query]
        assert len(negatives) == len(set(negatives)) <= hard
        for negative in negatives:
            assert negative not in {query, *targets[query]} and (query, negative) in inside
            assert negative not in above[target] and not namesakes(negative, query) and not namesakes(negative, target)
        possible = {t for q, t in inside if q == query} - targets[query] - above[target]
        possible = {t for t in possible - excluded[query] if not namesakes(t, query) and not namesakes(t, target)}
        assert len(negatives) == min(hard, len(possible))
    assert all(len(chosen) <= per_query for chosen in targets.values())

    shuffled = list(range(found.num_rows))
    random.shuffle(shuffled)
    assert choose(found.take(pa.array(shuffled, pa.int64())), names, no_scores, options) == (pairs, counts)


def many(signal_sizes: dict[str, int], queries: int = 40) -> pa.Table:
    """Of each query so many neighbours in each signal, no target in two of them."""
    return ranked(
        (f"q{q:02d}", signal, f"{signal}{at:02d}", False)
        for q in range(queries)
        for signal, size in signal_sizes.items()
        for at in range(size)
    )


def test_drawn_by_signal_each_signal_has_a_target_before_any_has_two_and_what_one_lacks_the_others_fill():
    options = MineSettings(k=50, targets_per_query=3, hard_negatives=0, draw="by_signal")

    def signals_of(found: pa.Table, options: MineSettings = options) -> list[list[str]]:
        pairs = choose(found, {}, no_scores, options)[0].to_pylist()
        by_query = defaultdict(list)
        for row in pairs:
            by_query[row["query_id"]] += row["signals"]
        return [sorted(found) for found in by_query.values()]

    sizes = {"clip_image": 20, "dino_image": 2, "caption": 5}
    assert signals_of(many(sizes)) == [sorted(SIGNALS)] * 40
    together = signals_of(many(sizes), options.model_copy(update={"draw": "together"}))
    assert sum(found.count("dino_image") for found in together) < 20, "so that the turns are what brings them in"
    two = options.model_copy(update={"targets_per_query": 7})
    assert all(found.count("dino_image") == 2 and abs(found.count("caption") - found.count("clip_image")) <= 1
               for found in signals_of(many(sizes), two))  # fmt: skip
    one = signals_of(many(sizes), options.model_copy(update={"targets_per_query": 1}))
    assert {found[0] for found in one} == set(SIGNALS), "which signal begins depends on the query"
    assert signals_of(many({"clip_image": 9})) == [["clip_image"] * 3] * 40


def test_slices_of_the_work_do_not_show(monkeypatch):
    rng = np.random.default_rng(0)
    found = ranked([(f"q{rng.integers(30):02d}", SIGNALS[rng.integers(3)], f"t{at}", rng.random() < 0.1) for at in range(900)])
    whole = choose(found, {}, no_scores, MineSettings())
    monkeypatch.setattr("mmret.mine.choose._ROWS", 7)
    assert choose(found, {}, no_scores, MineSettings()) == whole
    other = choose(found, {}, no_scores, MineSettings(seed=1))[0]
    assert other["pair_id"] != whole[0]["pair_id"]


def test_captions_are_compared_as_a_reader_would():
    assert normalise_caption("  A  RED\nCar ") == normalise_caption("a red car") != normalise_caption("a red cart")
    assert normalise_caption("ﬁne") == normalise_caption("fine") and normalise_caption(None) == normalise_caption(" ") == ""
    found = ranked([("q", "caption", "a", False), ("q", "caption", "b", False), ("q", "caption", "c", False)])
    captions = pa.table({"image_id": ["q", "a", "b"], "caption": ["A red car", " a RED car", None]})
    pairs, counts = choose(found, captions, no_scores, MineSettings())
    assert set(pairs["target_id"].to_pylist()) == {"b", "c"} and counts["identical_caption"] == 1


class Cosines:
    """A score that knows some pairs of images and counts how often it is asked; all others have 0.5 in every signal."""

    def __init__(self, known: dict[frozenset[str], float], signal: str = "dino_image"):
        self.known, self.signal, self.calls = known, signal, 0

    def __call__(self, pairs: pa.Table) -> pa.Table:
        self.calls += 1
        names = list(zip(pairs["query_id"].to_pylist(), pairs["target_id"].to_pylist(), strict=True))
        of_signal = pa.array([self.known.get(frozenset(pair), 0.5) for pair in names], pa.float32())
        other = pa.array(np.full(len(names), 0.5, np.float32))
        return pa.table({name: of_signal if name.startswith(self.signal) else other for name in SCORELESS})


@pytest.mark.parametrize("alike", [1, 10, 18, 19])
def test_a_near_duplicate_of_the_target_that_no_list_names_is_no_negative(alike):
    found = ranked([("q", "caption", f"t{at:02d}", False) for at in range(20)])
    options = MineSettings(targets_per_query=1, hard_negatives=3)
    (target,) = choose(found, {}, no_scores, options)[0]["target_id"].to_pylist()
    others = [f"t{at:02d}" for at in range(20) if f"t{at:02d}" != target]
    by_priority = choose(found, {}, no_scores, options.model_copy(update={"hard_negatives": 19}))[0]["hard_negatives"][0].as_py()
    assert sorted(by_priority) == others
    score = Cosines({frozenset((target, other)): 0.97 for other in by_priority[:alike]})
    pairs, _ = choose(found, {}, score, options, BANDS_OF_THE_PAPER)
    assert pairs["hard_negatives"][0].as_py() == by_priority[alike : alike + 3], "the next ones take their place"
    assert pairs["target_id"].to_pylist() == [target]
    assert score.calls == (1 if alike == 1 else 2), "a second pass only where most of those drawn were near-duplicates"


def test_below_the_end_of_the_band_is_no_near_duplicate_and_without_bands_only_the_lists_tell():
    found = ranked([("q", "caption", t, False) for t in "abcd"])
    options = MineSettings(targets_per_query=1, hard_negatives=3)
    plain, _ = choose(found, {}, no_scores, options)
    (target,) = plain["target_id"].to_pylist()
    alike = {frozenset((target, other)): float(np.nextafter(np.float32(0.96), np.float32(0))) for other in "abcd"}
    assert choose(found, {}, Cosines(alike), options, BANDS_OF_THE_PAPER)[0]["hard_negatives"] == plain["hard_negatives"]
    assert choose(found, {}, Cosines(dict.fromkeys(alike, 1.0)), options)[0]["hard_negatives"] == plain["hard_negatives"]


def test_what_a_full_list_above_the_band_leaves_out_is_neither_target_nor_negative():
    options = MineSettings(k=4, targets_per_query=1, hard_negatives=9)
    above = [("q", "dino_image", t, True) for t in "wxyz"]
    found = ranked([*above, *(("q", "caption", t, False) for t in "cabd")])
    none = beyond_full_lists(found, no_scores, BANDS_OF_THE_PAPER, 4)
    assert none.num_rows == 0 and none.schema == NEIGHBOURS
    score = Cosines({frozenset(("q", t)): 0.99 for t in "ab"})
    more = beyond_full_lists(found, score, BANDS_OF_THE_PAPER, 4)
    assert sorted(more["target_id"].to_pylist()) == ["a", "b"] and set(more["signal"].to_pylist()) == {"dino_image"}
    pairs, counts = choose(pa.concat_tables([found, more]), {}, score, options, BANDS_OF_THE_PAPER)
    assert {*pairs["target_id"].to_pylist(), *pairs["hard_negatives"][0].as_py()} == {"c", "d"} and counts["near_duplicate"] == 6
    short = ranked([*above[:3], *(("q", "caption", t, False) for t in "cabd")])
    assert beyond_full_lists(short, score, BANDS_OF_THE_PAPER, 4).num_rows == 0, "a list that is not full is complete"


def test_no_neighbours_give_no_pairs():
    pairs, counts = choose(NEIGHBOURS.empty_table(), {}, no_scores, MineSettings())
    assert pairs.num_rows == 0 and pairs.schema == PAIRS and set(counts.values()) == {0}


def world(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Images of 60 kinds of 12 families, seen by three signals that agree in part; (count, 48) float16 unit vectors."""
    rng = np.random.default_rng(seed)
    families = rng.standard_normal((12, 16))
    kinds = families[rng.integers(12, size=60)] + 0.6 * rng.standard_normal((60, 16))
    scenes = kinds[rng.integers(60, size=count)] + rng.gamma(2, 0.25, (count, 1)) * rng.standard_normal((count, 16))
    views = (scenes @ rng.standard_normal((16, 48)) / 4 + 0.5 * rng.standard_normal((count, 48)) for _ in SIGNALS)
    return {s: (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float16) for s, v in zip(SIGNALS, views, strict=True)}


@pytest.mark.parametrize("draw", ["together", "by_signal"])
@pytest.mark.parametrize(("k", "cuts"), [(50, []), (10, [500, 1000, 1500])])
def test_a_tenth_more_images_leave_more_than_95_percent_of_the_pairs(k, cuts, draw):
    ids, vectors, options = image_ids(2200), world(2200), MineSettings(k=k, draw=draw)
    bands = {signal: propose(v) for signal, v in vectors.items()}

    def chosen(parts, with_shard):
        images = pa.table(
            {
                "image_id": [i for p in parts for i in p.ids],
                "caption": [i for p in parts for i in p.ids],
                "shard": [p.shard for p in parts for _ in p.ids],
            }
        )
        captions = images if with_shard else images.drop_columns("shard")
        return set(choose(mined(parts, options, bands), captions, no_scores, options)[0]["pair_id"].to_pylist())

    before = shards(ids[:2000], {s: v[:2000] for s, v in vectors.items()}, cuts)
    after = shards(ids, vectors, [*cuts, 2000])
    old, new = chosen(before, True), chosen(after, True)
    assert len(old) > 2000 and len(old & new) > 0.95 * len(old)
    old, new = chosen(before, False), chosen(after, False)
    assert len(old & new) < 0.95 * len(old), "so that the rule is what keeps them"


def test_pair_scores_are_the_exact_cosines_in_the_order_asked_for():
    ids, vectors = image_ids(50), world(50)
    parts = shards(ids, {s: vectors[s] for s in ("clip_image", "caption")}, [20, 21])
    rng = np.random.default_rng(0)
    one, other = rng.integers(50, size=(2, 200))
    pairs = pa.table({"query_id": [ids[i] for i in one], "target_id": [ids[i] for i in other]})
    scores = pair_scores(pairs, parts)
    for signal in ("clip_image", "caption"):
        wide = vectors[signal].astype(np.float64)
        assert (scores[f"{signal}_score"].to_numpy() == (wide[one] * wide[other]).sum(1).astype(np.float32)).all()
    assert scores["dino_image_score"].null_count == 200
    with pytest.raises(UserError, match="image nobody has no vectors"):
        pair_scores(pa.table({"query_id": ["nobody"], "target_id": [ids[0]]}), parts)
    assert pair_scores(pairs.slice(0, 0), parts).num_rows == 0


def test_a_cosine_at_the_upper_end_of_a_band_in_any_signal_is_a_near_duplicate_and_one_that_is_missing_is_none():
    """The band's ends are open, as in mining: ``low < score < high`` in float32."""
    high = np.float32(BandSettings().high)
    values = [[high, 0, 0], [0, 0, high], [np.nextafter(high, np.float32(0)), 0, 0], [None, None, None], [0, None, np.float32(1)]]
    scores = pa.table({name: pa.array([row[at] for row in values], kind) for at, (name, kind) in enumerate(SCORELESS.items())})
    assert above_band(scores, BANDS_OF_THE_PAPER).tolist() == [True, True, False, False, True]
