"""What is asked again, what it costs and what is noted of it: followed with a model whose answers are written down beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from mmret.annotate import answers as answer_module
from mmret.annotate.answers import Stats, get_answers
from mmret.annotate.backends.base import ModelAnnotator
from mmret.annotate.compose import compose
from mmret.annotate.describe import describe
from mmret.annotate.estimate import Estimate, estimate, requests_per_second
from mmret.annotate.instruct import instruct
from mmret.annotate.kinds import TABLES
from mmret.annotate.partitions import answer_notes
from mmret.annotate.protocol import Answer, Request, request_key
from mmret.annotate.stage import seconds_left
from mmret.annotate.store import AnswerStore, _storable
from mmret.hashing import pair_id
from mmret.lake import Lake
from mmret.schemas import DESCRIPTIONS, PAIRS
from mmret.settings import AnnotateSettings, EngineSettings

IDS = [f"{i:032x}" for i in range(6)]
PAIRS_OF = pa.table({"pair_id": list(map(pair_id, IDS, IDS[1:])), "query_id": IDS[:-1], "target_id": IDS[1:]})
COUNT = PAIRS_OF.num_rows
ENGINE = EngineSettings(model="m", price_in=2.0, price_out=10.0)
GOOD = "Both images show a car; the second is blue."
TEXTS = '["make it blue", "the same car in blue", "now with blue paint"]'


def settings(**changes) -> AnnotateSettings:
    return AnnotateSettings(backend="openai", vision=ENGINE, **changes)


class Scripted(ModelAnnotator):
    """``say(request)`` is the text or the answer; what was asked is in ``asked``."""

    def __init__(self, say: Callable[[Request], str | Answer], **changes):
        super().__init__(settings(**changes))
        self.say, self.asked = say, []

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        for i in reversed(range(len(requests))):  # in any order
            self.asked.append(requests[i])
            said = self.say(requests[i])
            yield i, said if isinstance(said, Answer) else Answer(said, "stop", 100 + requests[i].attempt, 10)


def usable(request: Request) -> str:
    return GOOD if request.kind == "describe" else TEXTS


def requests(*names: str) -> list[Request]:
    return [Request("describe", name, IDS[0], IDS[1], seed=n) for n, name in enumerate(names)]


def test_an_answer_that_cannot_be_used_is_asked_for_again_and_the_tokens_of_every_attempt_are_counted():
    annotator = Scripted(lambda r: GOOD if r.attempt == 2 else "", attempts=4)
    stats = Stats()
    rows = describe(PAIRS_OF, {}, annotator, annotator.settings, None, stats)
    assert (
        set(rows["status"].to_pylist()) == {"ok"}
        and [r.attempt for r in annotator.asked] == [0] * COUNT + [1] * COUNT + [2] * COUNT
    )
    assert set(rows["tokens_in"].to_pylist()) == {100 + 101 + 102} and set(rows["tokens_out"].to_pylist()) == {30}
    assert (stats.requests, stats.sent, stats.stored) == (3 * COUNT, 3 * COUNT, 0)
    assert stats.tokens_in == 303 * COUNT and stats.tokens_out == 30 * COUNT
    assert stats.cost == pytest.approx((2 * stats.tokens_in + 10 * stats.tokens_out) / 1e6)
    last = {annotator.key(r): r.pair_id for r in annotator.asked if r.attempt == 2}
    assert {last[row["request_key"]] for row in rows.to_pylist()} == set(PAIRS_OF["pair_id"].to_pylist())


def test_answers_of_every_attempt_are_stored_with_the_pictures_they_are_about(tmp_path):
    store = AnswerStore(tmp_path)
    annotator = Scripted(lambda r: GOOD if r.attempt == 1 else "", attempts=2)
    describe(PAIRS_OF, {}, annotator, annotator.settings, store)
    about, unknown = store.keys_about(pa.array([IDS[2]]))
    assert about == {annotator.key(r) for r in annotator.asked if IDS[2] in (r.query_id, r.target_id)} and len(about) == 4
    assert not unknown


def test_no_more_is_asked_than_the_settings_say_and_the_last_reason_is_kept():
    annotator = Scripted(lambda r: "", attempts=3)
    stats = Stats()
    rows = describe(PAIRS_OF, {}, annotator, annotator.settings, None, stats)
    assert len(annotator.asked) == 3 * COUNT and set(rows["reason"].to_pylist()) == {"empty"}
    assert stats.statuses == {"failed": COUNT} and stats.reasons == {"empty": COUNT} and set(rows["text"].to_pylist()) == {None}
    once = Scripted(lambda r: "", attempts=1)
    describe(PAIRS_OF, {}, once, once.settings, None)
    assert len(once.asked) == COUNT


def test_only_what_cannot_be_used_is_asked_again():
    bad = PAIRS_OF["pair_id"][2].as_py()
    annotator = Scripted(lambda r: "" if r.pair_id == bad and not r.attempt else GOOD, attempts=3)
    rows = describe(PAIRS_OF, {}, annotator, annotator.settings, None)
    assert [r.pair_id for r in annotator.asked if r.attempt] == [bad] and set(rows["status"].to_pylist()) == {"ok"}
    tokens = dict(zip(rows["pair_id"].to_pylist(), rows["tokens_in"].to_pylist(), strict=True))
    assert tokens.pop(bad) == 201 and set(tokens.values()) == {100}


def test_transport_trouble_is_left_to_a_later_run_and_not_stored(tmp_path: Path):
    down = Scripted(lambda r: Answer(error="timeout", tokens_in=1), attempts=3)
    down.experience = "elsewhere"  # a model that never answered anything would stop the run
    rows = describe(PAIRS_OF, {}, down, down.settings, AnswerStore(tmp_path))
    assert len(down.asked) == COUNT and set(rows["reason"].to_pylist()) == {"timeout"}
    assert AnswerStore(tmp_path).count("describe") == 0


def test_a_request_asked_for_by_two_pairs_is_sent_once_and_both_have_the_answer(tmp_path: Path):
    annotator = Scripted(usable)
    same = [*requests("a", "b"), *requests("a")]
    stats, store = Stats(), AnswerStore(tmp_path)
    found = get_answers(same, annotator, store, stats)
    assert [key for key, _ in found] == [annotator.key(r) for r in same] and len(annotator.asked) == len(
        {annotator.key(r) for r in same}
    )
    sent = len(annotator.asked)
    assert (stats.requests, stats.sent, stats.stored) == (3, sent, 3 - sent)
    again = Stats()
    assert get_answers(same, annotator, store, again) == found and len(annotator.asked) == sent
    assert (again.requests, again.sent, again.stored, again.tokens_in, again.cost) == (3, 0, 3, 0, 0.0)
    assert get_answers([], annotator, store, again) == []


def test_answers_are_on_disk_after_so_many_and_after_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store, seen = AnswerStore(tmp_path), []
    clock = iter(range(0, 10**6, 4))
    monkeypatch.setattr(answer_module.time, "monotonic", lambda: next(clock))
    annotator = Scripted(lambda r: seen.append(store.count("describe")) or GOOD)
    distinct = [Request("describe", str(n), f"{n + 100:032x}", IDS[5]) for n in range(40)]
    get_answers(distinct, annotator, store, Stats())
    assert seen[0] == 0 and 0 < seen[10] <= 10, "ten seconds are three answers of four seconds"
    monkeypatch.setattr(answer_module.time, "monotonic", lambda: 0)
    monkeypatch.setattr(answer_module, "FLUSH_ROWS", 8)
    seen.clear()
    others = [r._replace(query_id=r.query_id[::-1]) for r in distinct]
    get_answers(others, annotator, store, Stats())
    assert (seen[7], seen[8], seen[16]) == (40, 48, 56) and store.count("describe") == 80


def test_instructions_are_asked_with_their_description_and_not_at_all_where_there_is_none():
    annotator = Scripted(usable)
    described = describe(PAIRS_OF, {}, annotator, annotator.settings, None).to_pylist()
    described[0] |= {"status": "failed", "reason": "refusal", "text": None}
    described[1] |= {"status": "failed", "reason": None, "text": None}
    described = pa.Table.from_pylist(described[:4], DESCRIPTIONS)
    annotator.asked.clear()
    rows = {r["pair_id"]: r for r in instruct(described, PAIRS_OF, {}, annotator, annotator.settings, None).to_pylist()}
    first, second, third = (described["pair_id"][i].as_py() for i in range(3))
    assert (rows[first]["status"], rows[first]["reason"], rows[first]["request_key"]) == ("failed", "refusal", None)
    assert rows[second]["reason"] == "no_description" and rows[third]["status"] == "ok" and len(rows) == COUNT
    assert len(annotator.asked) == 2 and {r.description for r in annotator.asked} == {GOOD}
    assert rows[third]["texts"] == ["make it blue", "the same car in blue", "now with blue paint"]
    assert sum(r["reason"] == "no_description" for r in rows.values()) == 2, "one without a row of its own as well"


@pytest.mark.parametrize(
    ("scores", "status", "reason"),
    [((5, 5), "ok", None), ((3, 3), "ok", None), ((2, 5), "rejected", "low_fidelity"), ((5, 2), "rejected", "low_discretion")],
)
def test_a_judge_turns_down_what_is_below_the_minimum_and_its_tokens_are_counted(scores, status, reason):
    judged = f'{{"fidelity": {scores[0]}, "discretion": {scores[1]}}}'
    annotator = Scripted(lambda r: judged if r.kind == "judge" else usable(r), judge=True, judge_minimum=3)
    described = describe(PAIRS_OF, {}, annotator, annotator.settings, None)
    annotator.asked.clear()
    rows = instruct(described, PAIRS_OF, {}, annotator, annotator.settings, None)
    assert {(r["status"], r["reason"]) for r in rows.to_pylist()} == {(status, reason)}
    assert set(rows["tokens_in"].to_pylist()) == {200} and set(rows["tokens_out"].to_pylist()) == {20}
    asked = [r for r in annotator.asked if r.kind == "judge"]
    assert len(asked) == COUNT and all(r.instructions[0] == "make it blue" and not r.description for r in asked)


def test_a_judge_that_gives_no_scores_fails_the_pair_and_says_so():
    annotator = Scripted(lambda r: "no idea" if r.kind == "judge" else usable(r), judge=True, attempts=1)
    described = describe(PAIRS_OF, {}, annotator, annotator.settings, None)
    rows = instruct(described, PAIRS_OF, {}, annotator, annotator.settings, None)
    assert all(r["status"] == "failed" and r["reason"].startswith("judge_") for r in rows.to_pylist())


def test_rows_say_who_wrote_them_and_requests_carry_captions_count_and_seed():
    annotator = Scripted(usable, seed=9, instructions_per_pair=4, attempts=1)
    rows = describe(PAIRS_OF, {IDS[0]: "a red car", IDS[1]: "a blue car"}, annotator, annotator.settings, None)
    request = next(r for r in annotator.asked if r.query_id == IDS[0])
    assert (request.query_caption, request.target_caption, request.count, request.seed) == ("a red car", "a blue car", 4, 9)
    assert next(r for r in annotator.asked if r.query_id == IDS[4]).query_caption == ""
    assert set(rows["model"].to_pylist()) == {annotator.model_for("describe")}
    assert set(rows["prompt_version"].to_pylist()) == {annotator.prompt_version("describe")}
    assert rows["pair_id"].to_pylist() == sorted(PAIRS_OF["pair_id"].to_pylist())


def test_what_a_run_notes_adds_up():
    rows = [
        {"pair_id": "a", "status": "ok", "request_key": "k", "tokens_in": 3, "tokens_out": 1, "model": "m"},
        {
            "pair_id": "b",
            "status": "failed",
            "reason": "refusal",
            "request_key": "k",
            "tokens_in": 4,
            "tokens_out": 2,
            "model": "m",
        },
        {"pair_id": "c", "status": "failed", "reason": "no_caption", "request_key": None, "tokens_in": 0, "tokens_out": 0},
    ]
    table = pa.Table.from_pylist(rows, DESCRIPTIONS)
    stats = Stats(requests=10, sent=4, stored=6, tokens_in=70, tokens_out=30, cost=0.123456, seconds=2.0)
    assert answer_notes(table, stats, []) == {
        "model": "m",
        "ok": 1,
        "reasons": {"refusal": 1},
        "tokens_in": 7,
        "tokens_out": 3,
        "requests_sent": 4,
        "answers_reused": 6,
        "annotation_seconds": 2.0,
        "requests_per_second": 5.0,
        "sent_per_second": 2.0,
        "cost": 0.1235,
        "sent_tokens_in": 70,
        "sent_tokens_out": 30,
    }
    free = answer_notes(table.slice(0, 0), Stats(), None)
    assert "cost" not in free and (free["model"], free["ok"], free["requests_per_second"]) == (None, 0, 0.0)


def noted(lake: Lake, shard: str, rows: int, **notes) -> None:
    table = pa.Table.from_pylist([{"pair_id": str(n)} for n in range(rows)], DESCRIPTIONS)
    lake.write("descriptions", shard, table, "x", **({"model": "m", "annotation_seconds": 1.0, "retries": 0} | notes))


def test_the_time_left_goes_by_what_the_same_model_wrote_at_first_attempt(tmp_path: Path):
    lake = Lake(tmp_path)
    for shard, rows in (("s0", 10), ("s1", 10), ("s2", 10), ("s3", 7), ("s4", 5)):
        lake.write("pairs", shard, pa.Table.from_pylist([{"pair_id": str(n)} for n in range(rows)], PAIRS), "x")
    noted(lake, "s0", 10, annotation_seconds=20.0)
    assert seconds_left(lake, "descriptions", "s0") == (10 + 10 + 7 + 5) * 2.0
    noted(lake, "s1", 10, annotation_seconds=40.0)
    assert seconds_left(lake, "descriptions", "s0") == (10 + 7 + 5) * 3.0
    noted(lake, "s2", 10, annotation_seconds=999.0, retries=1)
    noted(lake, "s3", 7, annotation_seconds=999.0, model="another")
    assert seconds_left(lake, "descriptions", "s0") == 5 * 3.0
    noted(lake, "s4", 5, annotation_seconds=0.0)
    assert seconds_left(lake, "descriptions", "s0") == 0.0 and seconds_left(lake, "descriptions", "s3") == 0.0


def test_the_rate_of_a_model_is_the_last_one_measured_over_enough_requests(tmp_path: Path):
    lake = Lake(tmp_path)
    noted(lake, "s0", 1, requests_sent=49, sent_per_second=9.0)
    assert requests_per_second(lake, "describe", "m") is None, "fewer than fifty are no measurement"
    noted(lake, "s1", 1, requests_sent=50, sent_per_second=3.0)
    assert requests_per_second(lake, "describe", "m") == 3.0 and requests_per_second(lake, "describe", "other") is None


def test_tokens_are_guessed_by_the_length_of_prompts_pictures_and_texts(tmp_path: Path):
    annotator, store = Scripted(usable), AnswerStore(tmp_path)
    describing, instructing = estimate(PAIRS_OF, {}, dict.fromkeys(TABLES, annotator), annotator.settings, store)
    question = compose(Request("describe", "p", IDS[0], IDS[1]), annotator.settings)
    prompt = (len(question.system) + len(question.user)) / 4 + 2 * 448**2 / (28 * 28)
    assert describing.tokens_in == pytest.approx(COUNT * prompt, rel=0.01)
    words = sum(annotator.settings.words) / 2
    assert describing.tokens_out == round(COUNT * words * 1.35)
    assert instructing.tokens_out == round(COUNT * (12 * 3 + 10) * 1.35)
    assert (describing.requests, instructing.requests, describing.stored) == (COUNT, COUNT, 0) and not describing.measured
    both = Scripted(usable, one_step=True, judge=True)
    together, judging = estimate(PAIRS_OF, {}, dict.fromkeys(TABLES, both), both.settings, store)
    assert together.tokens_out == pytest.approx(COUNT * (words + 12 * 3 + 10) * 1.35, abs=1)
    assert judging.tokens_out == round(COUNT * 12 * 1.35)


def test_an_answer_without_a_count_of_tokens_is_no_measure_of_them(tmp_path: Path):
    store = AnswerStore(tmp_path)
    silent = Scripted(lambda r: Answer(GOOD, "stop", 0 if r.query_id == IDS[0] else 60, 6))
    describe(PAIRS_OF.slice(0, 3), {}, silent, silent.settings, store)
    describing, instructing = estimate(PAIRS_OF, {}, dict.fromkeys(TABLES, silent), silent.settings, store)
    assert describing.measured and (describing.stored, describing.tokens_in, describing.tokens_out) == (3, 2 * 60, 2 * 6)
    assert describing.cost == pytest.approx((2 * 120 + 10 * 12) / 1e6) and not instructing.measured


def test_an_estimate_of_a_sample_is_scaled_to_all():
    one = Estimate("describe", 10, 4, 100, 50, 0.5, True)
    assert one.scale(2.5) == Estimate("describe", 25, 10, 250, 125, 1.25, True) and one.seconds(3) == 2.0


def test_a_text_without_lone_surrogates_is_stored_as_it_is():
    assert _storable("é猫 🚗") == "é猫 🚗" and _storable("a\ud83d") == "a?"
    assert request_key("ab", "c") != request_key("a", "bc") and len(request_key("a")) == 32
