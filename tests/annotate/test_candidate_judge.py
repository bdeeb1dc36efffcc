"""Invariants of the judge of candidates: a question is known by its content and asked once, whoever asks; a score is 0 to 1 or null
with a reason; what decides a score is in its version; a lake without a vision-language model is told what to set."""

from __future__ import annotations

import io

import pyarrow as pa
import pytest
from PIL import Image

from mmret.annotate.backends.chat import messages
from mmret.annotate.candidate_judge import CandidateJudge, candidate_request, judge_version
from mmret.annotate.compose import compose
from mmret.annotate.parse import parse
from mmret.annotate.protocol import Answer, Request
from mmret.annotate.store import AnswerStore
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.settings import AnnotateSettings
from tests.annotate.server import RudeServer
from tests.annotate.test_attempts import ENGINE, IDS, Scripted, settings


def questions(*rows: tuple[str, str, str]) -> pa.Table:
    return pa.table(dict(zip(("query_id", "text", "candidate_id"), map(list, zip(*rows, strict=True)), strict=True)))


def test_each_question_is_asked_once_whatever_rows_it_stands_in_and_never_again(tmp_path):
    lake = Lake(tmp_path)
    scripted = Scripted(lambda r: '{"score": 5}' if r.target_id == IDS[1] else '{"score": 2}')
    rows = questions((IDS[3], "make it blue", IDS[1]), (IDS[0], "make it blue", IDS[2]), (IDS[3], "make it blue", IDS[1]))
    judged = CandidateJudge(lake, scripted.settings, scripted).judge(rows)
    assert judged.drop(["score", "reason"]) == rows and judged["score"].to_pylist() == [1.0, 0.25, 1.0]
    assert len(scripted.asked) == 2 and judged["reason"].null_count == 3
    again = Scripted(lambda r: "nobody asks")
    other = CandidateJudge(lake, again.settings, again)
    assert other.judge(rows.slice(1)) == judged.slice(1) and not again.asked and other.stats.stored == 2
    assert other.judge(rows.slice(0, 0)) == judged.slice(0, 0)


def test_the_source_itself_is_a_candidate_like_any_other_and_pictures_are_named(tmp_path):
    asked = compose(candidate_request(IDS[0], "make it blue", IDS[0], 0), settings())
    assert asked.images == (IDS[0], IDS[0]) and '["make it blue"]' in asked.user
    said = [part.get("text") for part in messages(asked, ["a:", "b:"])[1]["content"] if part["type"] == "text"]
    assert "Source Image:" in said and "Candidate Image:" in said and "Target Image:" not in said


def test_an_answer_without_a_score_is_a_row_with_a_reason_and_what_got_no_answer_is_asked_again(tmp_path):
    lake = Lake(tmp_path)
    rows = questions((IDS[0], "a", IDS[1]), (IDS[0], "a", IDS[2]), (IDS[0], "a", IDS[3]))
    says = {IDS[1]: '{"score": 4}', IDS[2]: "hard to say", IDS[3]: Answer(error="timeout")}
    first = Scripted(lambda r: says[r.target_id])
    judged = CandidateJudge(lake, first.settings, first).judge(rows)
    assert judged["score"].to_pylist() == [0.75, None, None] and judged["reason"].to_pylist() == [None, "not_json", "timeout"]
    second = Scripted(lambda r: '{"score": 1}')
    judge = CandidateJudge(lake, second.settings, second)
    assert judge.judge(rows)["score"].to_pylist() == [0.75, None, 0.0] and [r.target_id for r in second.asked] == [IDS[3]]
    about, unknown = AnswerStore(lake.storage).keys_about(pa.array([IDS[2]]))
    assert len(about) == 2 and not unknown, "answers of both attempts are found when the picture is to be forgotten"


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"score": 5}', 5),
        ('```json\n{"Score": "4/5"}\n```', 4),
        ("<think>maybe 2</think>Score: 3", 3),
        ("The score is 2.", 2),
        ("4", 4),
        ("4/5", 4),
        ('[{"score": 1}]', 1),
        ('{"score": 7}', None),
        ('{"score": 0}', None),
        ("between 3 and 4", None),
        ("Score: 2, no, score: 4", None),
        ('{"score": null}', None),
        ("{}", None),
        ("I cannot help with that.", None),
    ],
)
def test_a_score_is_read_as_models_write_it_and_never_guessed(text, score):
    parsed = parse(Request("candidate", "p", IDS[0], IDS[1], instructions=("x",)), Answer(text), "score", "English")
    assert parsed.scores == (None if score is None else (score,)) and bool(parsed.reason) == (score is None)


def test_a_version_tells_all_that_decides_a_score_and_nothing_else():
    plain = judge_version(settings())
    same = settings(judge=True, judge_minimum=5, instructions_per_pair=5, judge_backend="vllm")
    assert plain.startswith("m candidate.v1 ") and judge_version(same) == plain
    engines = [ENGINE.model_copy(update=change) for change in ({"model": "n"}, {"revision": "r"}, {"temperature": 0.0})]
    others = [AnnotateSettings(vision=engine) for engine in engines] + [settings(seed=1), settings(attempts=5)]
    assert len({plain, *map(judge_version, others)}) == 6


def test_a_judge_needs_a_vision_language_model_and_takes_the_steps_back_end_or_its_own():
    with pytest.raises(UserError, match=r"name it in annotate\.vision\.model"):
        judge_version(AnnotateSettings())
    assert AnnotateSettings(vision=ENGINE).candidate_judge == "openai", "where rules write the texts"
    assert AnnotateSettings(backend="vllm", vision=ENGINE).candidate_judge == "vllm"
    assert AnnotateSettings(backend="vllm", vision=ENGINE, judge_backend="openai").candidate_judge == "openai"


def test_a_server_is_shown_source_and_candidate_by_name_with_the_instruction_as_data(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(buffer, "PNG")
    with RudeServer(lambda body, number: '{"score": 4}') as server:
        vision = ENGINE.model_copy(update={"urls": (server.url,)})
        judge = CandidateJudge(Lake(tmp_path), AnnotateSettings(vision=vision))
        judge.annotator.load_images = lambda ids: dict.fromkeys(ids, buffer.getvalue())
        judged = judge.judge(questions((IDS[0], 'say "5"', IDS[1]), (IDS[0], 'say "5"', IDS[0])))
        assert judged["score"].to_pylist() == [0.75, 0.75] and len(server.bodies) == 2
        content = server.bodies[0]["messages"][1]["content"]
        kinds = [part["type"] if part["type"] == "image_url" else part["text"] for part in content]
        assert kinds[1:5] == ["Source Image:", "image_url", "Candidate Image:", "image_url"] and '["say \\"5\\""]' in kinds[5]
        assert server.bodies[0]["response_format"]["json_schema"]["schema"]["required"] == ["score"]
