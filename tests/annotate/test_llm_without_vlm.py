"""Pins of rules that describe and an LLM that instructs: no picture is sent and no VLM needed, the LLM reads both captions, each
step counts, prices and keys by its own back-end; mixtures that mean nothing are refused in one sentence; nothing else changes."""

from __future__ import annotations

import asyncio
import hashlib
import json
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmret.annotate.backends.completion import read_completion
from mmret.annotate.backends.dialect import Dialect
from mmret.annotate.backends.load import fingerprint_settings, load_annotator, load_annotators
from mmret.annotate.backends.server_words import advice, trouble_of
from mmret.annotate.compose import compose, demonstrations_of
from mmret.annotate.estimate import estimate
from mmret.annotate.finish import finish_kind
from mmret.annotate.kinds import TABLES, request_kinds
from mmret.annotate.parse import parse
from mmret.annotate.protocol import Request
from mmret.annotate.stage import describe_shard, instruct_shard
from mmret.annotate.store import AnswerStore
from mmret.cli.run_work import ASKED, Work
from mmret.export.card_limits import limits
from mmret.ingest.pictures.pair_images import captions_of
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.settings import AnnotateSettings, EngineSettings, load_profile
from tests.annotate.annotation_run import SHARD, AnnotationRun
from tests.annotate.server import RudeServer, Status

INSTRUCTIONS = json.dumps({"instructions": ["make it blue", "the same one in blue", "a blue one without steam"]})
LLM = EngineSettings(model="llm", price_in=2.0, price_out=10.0)


def _settings(**changes: Any) -> AnnotateSettings:
    return AnnotateSettings(**{"instruct": "openai", "language_model": LLM, **changes})


def _mixed(run: AnnotationRun, url: str, **more: Any) -> AnnotateSettings:
    overrides = {
        "annotate.instruct": "openai",
        "annotate.language_model": {"model": "llm", "urls": [url], "tries": 1, "price_in": 2.0},
        **{f"annotate.{name}": value for name, value in more.items()},
    }
    return resolve(run.lake, overrides=overrides)[0].annotate


def _annotate(lake: Lake, settings: AnnotateSettings) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    annotators = load_annotators(settings)
    describe_shard(lake, SHARD, annotators["descriptions"], settings, "d")
    instruct_shard(lake, SHARD, annotators["instructions"], settings, "i")
    return lake.read("descriptions", SHARD).to_pylist(), lake.read("instructions", SHARD).to_pylist()


def test_no_picture_is_sent_and_every_pair_is_a_row_with_the_models_of_both_steps(annotation: AnnotationRun) -> None:
    with RudeServer(lambda body, number: Status(400, "no") if number % 5 == 4 else INSTRUCTIONS) as server:
        described, instructed = _annotate(annotation.lake, _mixed(annotation, server.url))
    pairs = annotation.lake.read("pairs", SHARD)
    assert pairs.num_rows == len(described) == len(instructed) > 20
    assert {row["model"].split("@")[0] for row in described} == {"captions"} and {row["model"] for row in instructed} == {"llm"}
    assert {row["prompt_version"] for row in instructed} == {"instruct_captions.v1+v1x5"}
    assert {(row["status"], row["reason"]) for row in instructed} >= {("ok", None), ("failed", "http_400")}
    assert all(row["texts"] or row["reason"] for row in instructed)
    asked = [row for row in instructed if row["request_key"]]
    assert len(server.bodies) == len(asked) == len({row["request_key"] for row in asked})
    captions, texts = captions_of(annotation.lake, pairs), {row["pair_id"]: row["text"] for row in described}
    users = {body["messages"][1]["content"] for body in server.bodies}  # text, never parts
    assert all(isinstance(user, str) for user in users) and "image_url" not in json.dumps(server.bodies)
    for row in pairs.to_pylist():
        if texts[row["pair_id"]]:
            told = [captions[row["query_id"]], captions[row["target_id"]], texts[row["pair_id"]]]
            assert any(all(json.dumps(text, ensure_ascii=False) in user for text in told) for user in users)
    notes = [annotation.lake.facts(table, SHARD).notes for table in ("descriptions", "instructions")]
    assert "cost" not in notes[0] and notes[1]["cost"] > 0


def test_a_changed_caption_asks_the_llm_anew_and_another_number_of_tries_does_not() -> None:
    request = Request("instruct", "p1", "a" * 32, "b" * 32, "a red cup", "a blue cup", "Both images show a cup.")
    patient = _settings(language_model=LLM.model_copy(update={"tries": 9}))
    model = load_annotator(_settings(), "instructions")
    assert model.key(request) == load_annotator(patient, "instructions").key(request)
    assert model.key(request) != model.key(request._replace(target_caption="a green cup"))


def test_with_a_vlm_the_llm_is_asked_as_before() -> None:
    """Its prompt has no captions, so its answers of earlier versions stay."""
    vlm = EngineSettings(model="vlm")
    old = AnnotateSettings(backend="openai", vision=vlm, language_model=LLM)
    apart = AnnotateSettings(describe="openai", instruct="openai", vision=vlm, language_model=LLM)
    request = Request("instruct", "p1", "a" * 32, "b" * 32, "a red cup", "a blue cup", "Both images show a cup.")
    assert compose(request, old) == compose(request._replace(query_caption="", target_caption=""), old)
    for table in ("descriptions", "instructions"):
        assert fingerprint_settings(old, table) == fingerprint_settings(apart, table)
        assert load_annotator(old, table).key(request) == load_annotator(apart, table).key(request)


def test_keys_and_fingerprints_of_lakes_with_one_back_end_are_those_of_the_version_before_there_were_two() -> None:
    """So that nothing is computed or paid for again. The digest is of the code before; a new prompt or rule changes it."""
    vlm, llm = EngineSettings(model="vlm"), EngineSettings(model="llm")
    lakes: list[dict[str, Any]] = [
        {},
        {"judge": True, "one_step": True},
        {"backend": "openai", "vision": vlm},
        {"backend": "openai", "vision": vlm, "language_model": llm, "judge": True},
        {"backend": "vllm", "vision": vlm, "one_step": True, "language": "French"},
    ]
    found: list[Any] = []
    for settings in (AnnotateSettings(**lake) for lake in lakes):
        for table in TABLES:
            found.append(fingerprint_settings(settings, table))
            for kind in ("describe", "instruct", "both", "judge"):
                request = Request(kind, "p1", "a" * 32, "b" * 32, "a red cup", "a blue cup", "Both images show a cup.")
                found.append(load_annotator(settings, table).key(request._replace(instructions=("be blue",))))
    assert hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16] == "6bc14f943fe5b3b8"


def test_rules_that_describe_keep_their_fingerprint_when_an_llm_instructs() -> None:
    plain, mixed = AnnotateSettings(), _settings()
    assert fingerprint_settings(plain, "descriptions") == fingerprint_settings(mixed, "descriptions")
    assert fingerprint_settings(plain, "instructions") != fingerprint_settings(mixed, "instructions")
    assert fingerprint_settings(mixed, "instructions")["sampling"]["model"] == "llm"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"instruct": "openai"}, r"needs annotate\.language_model\.model, .* a VLM it needs none"),
        ({"instruct": "vllm"}, r"instruct vllm needs annotate\.language_model\.model"),
        ({"describe": "openai", "instruct": "openai", "language_model": LLM}, r"describe openai needs annotate\.vision.* by rules"),
        ({"backend": "openai", "language_model": LLM}, r"backend openai needs annotate\.vision\.model.*describe=captions"),
        ({"describe": "openai", "vision": LLM}, "descriptions that nothing reads"),
        ({"backend": "vllm", "instruct": "captions", "vision": LLM}, "descriptions that nothing reads"),
        ({"instruct": "openai", "language_model": LLM, "one_step": True}, r"two steps: set annotate\.one_step=false"),
        ({"instruct": "openai", "language_model": LLM, "judge": True}, r"it looks at the pictures, so set annotate\.vision"),
    ],
)
def test_what_a_mixture_lacks_is_said_in_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        AnnotateSettings(**settings)
    assert len(error.value.errors()) == 1


def test_a_judge_of_a_mixture_is_the_vlm_and_is_asked_beside_the_llm() -> None:
    settings = _settings(judge=True, vision=EngineSettings(model="vlm"))
    annotators = load_annotators(settings)
    assert request_kinds(settings, annotators) == ["describe", "instruct", "judge"]
    model = annotators["instructions"]
    assert [model.model_for(kind) for kind in ("instruct", "judge")] == ["llm", "vlm"]
    assert compose(Request("judge", "p", "a" * 32, "b" * 32, instructions=("x",)), settings).images
    assert fingerprint_settings(settings, "instructions")["judge"][1] == "vlm"


def test_the_estimate_charges_the_llm_alone_and_counts_no_pictures(annotation: AnnotationRun, tmp_path: Path) -> None:
    pairs = annotation.lake.read("pairs", SHARD)
    captions, store = captions_of(annotation.lake, pairs), AnswerStore(tmp_path)
    settings = _settings()
    free, paid = estimate(pairs, captions, load_annotators(settings), settings, store)
    assert (free.cost, free.tokens_in, free.measured) == (0, 0, True) and paid.cost > 0 and not paid.measured
    larger = _settings(language_model=LLM.model_copy(update={"image_size": 4000}))
    assert estimate(pairs, captions, load_annotators(larger), larger, store)[1] == paid


def test_the_time_left_knows_which_step_waits_for_a_server() -> None:
    profile = load_profile("demo", {"annotate.instruct": "openai", "annotate.language_model": {"model": "llm"}})
    work = Work({"shard-00000": 100}, {})
    describing, instructing = (work.part(profile, stage, "shard-00000") for stage in ("descriptions", "instructions"))
    assert (describing.pace, describing.known) == ("descriptions", True)
    assert (instructing.pace, instructing.known) == (f"{ASKED}openai llm", False)


def test_the_data_card_says_that_no_model_saw_the_pictures_and_that_a_model_wrote() -> None:
    annotators = [
        {"description_model": "captions@4", "instruction_model": "llm", "triplets": 3},
        {"description_model": "vlm", "instruction_model": "llm", "triplets": 1},
    ]
    facts: Any = SimpleNamespace(counts={"triplets": 4}, annotators=annotators)
    unseen, written = islice(limits(facts), 2)
    assert "75" in unseen and "no model looked at the pictures" in unseen and "Texts written by a model" in written


def test_a_text_that_repeats_an_example_of_the_prompt_is_no_text_for_the_pair(annotation: AnnotationRun) -> None:
    """As a real small model does for every third pair: such a text would lead to a picture that is not there."""
    seen: list[str] = []

    def parrot(body: dict[str, Any], number: int) -> str:
        examples = body["messages"][1]["content"].split('{"instructions": ')[1].split("]")[0] + "]"
        seen.append(examples)
        own = ["a blue one"] if number % 2 else ["a blue one", "make it blue", "now in blue"]
        return json.dumps({"instructions": [*json.loads(examples), *own]})

    with RudeServer(parrot) as server:
        settings = _mixed(annotation, server.url, demonstrations=1, attempts=1)
        _, rows = _annotate(annotation.lake, settings)
    ok = [row for row in rows if row["status"] == "ok"]
    assert ok and all(row["texts"] == ["a blue one", "make it blue", "now in blue"] for row in ok)
    reasons = {row["reason"] for row in rows if row["request_key"] and row["status"] != "ok"}
    # which pair gets the one text of its own depends on the order of requests; of some that text tells the source
    assert "copied_prompt" in reasons and reasons <= {"copied_prompt", "leaked_source"}
    assert len(demonstrations_of(Request("instruct", "p", "a", "b"), settings)) == 1 and seen


LLAMA_CPP = {
    "context": {
        "error": {
            "code": 400,
            "message": "request (6024 tokens) exceeds the available context size (4096 tokens), try increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 6024,
            "n_ctx": 4096,
        }
    },
    "picture": {
        "error": {
            "code": 500,
            "message": "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
            "type": "server_error",
        }
    },
    "completion": {
        "choices": [
            {"finish_reason": "length", "index": 0, "message": {"role": "assistant", "content": '{\n "instructions": ["a star"'}}
        ],
        "created": 1795710356,
        "model": "gemma",
        "object": "chat.completion",
        "usage": {
            "completion_tokens": 24,
            "prompt_tokens": 48,
            "total_tokens": 72,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
        "timings": {"cache_n": 0, "predicted_per_second": 3.07},
    },
}
"""What llama.cpp's server said, recorded."""


def test_what_llama_cpp_says_is_understood() -> None:
    too_long = trouble_of(400, json.dumps(LLAMA_CPP["context"]).encode())
    assert (too_long.code, too_long.scope) == ("prompt_too_long", "request")
    assert "--ctx-size" in advice(too_long.code, too_long.words, "annotate.language_model")
    blind = trouble_of(500, json.dumps(LLAMA_CPP["picture"]).encode())
    assert "needs a model that sees pictures" in advice(blind.code, blind.words, "annotate.vision")
    assert not Dialect().learn(500, blind.words, {"response_format": {}, "seed": 1, "messages": [{"role": "system"}]})
    answer = read_completion(json.dumps(LLAMA_CPP["completion"]).encode())
    assert (finish_kind(answer.finish_reason), answer.tokens_in, answer.tokens_out) == ("truncated", 48, 24)
    request = Request("instruct", "p", "a", "b")
    assert parse(request, answer, "instructions", "English").reason == "truncated"


class OneSlot(RudeServer):
    """Answers one request at a time, as llama.cpp does unless told otherwise."""

    def __init__(self, seconds: float):
        super().__init__(lambda body, number: INSTRUCTIONS, delay=seconds)
        self._slot = asyncio.Lock()

    async def _work(self) -> None:
        async with self._slot:
            await super()._work()


def test_a_server_with_one_slot_is_soon_sent_no_more_than_it_answers_in_time() -> None:
    """Else each wave of 32 times out but for its first, and is computed in vain: some 200 requests for 60 answers."""
    with OneSlot(0.05) as server:
        engine = EngineSettings(
            model="llm", urls=(server.url,), concurrency=32, timeout_s=0.4, deadline_s=30, tries=6, max_answer_bytes=10_000
        )
        settings = _settings(language_model=engine, demonstrations=0)
        asked = [
            Request("instruct", f"p{i}", "a" * 32, "b" * 32, "a cup", "a red cup", "Both images show a cup.") for i in range(60)
        ]
        answers = [answer for _, answer in load_annotator(settings, "instructions").answers(asked)]
    assert len(answers) == 60 and sum(not answer.error for answer in answers) >= 57
    assert server.got < 130
