"""Alarms: the whole message is right, a backfill of failures is two of them, a dead receiver holds up nothing, no secret leaks."""

import json
import logging
import socket
import time
from types import SimpleNamespace

import dagster as dg
import pytest

from assets.alarms import deliver
from assets.alarms.failures import Failure, failures_of
from assets.alarms.groups import MOST_MESSAGES, due, gather, key_of
from assets.alarms.message import compose, compose_many, one_line
from assets.alarms.sensor import alarms
from assets.definitions import defs
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.settings import load_profile
from resources.lake import LakeResource
from tests.assets.receivers import Mail, Webhook, serving, words
from tests.freshness.empty_tables import SHARDS, current_lake

REASON = "mine.k is 0: set it to 1 or more"


class Watch:
    """The sensor, tick by tick, with a clock of its own; ``said`` are the log's lines."""

    def __init__(self, lake: Lake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, caplog):
        self.lake, self.instance, self.cursor, self.now, self._caplog = lake, instance, None, 1_000_000.0, caplog
        caplog.set_level(logging.INFO, "alarms under test")
        monkeypatch.setattr(dg.SensorEvaluationContext, "log", property(lambda _: logging.getLogger("alarms under test")))
        monkeypatch.setattr(time, "time", lambda: self.now)
        self.tick()

    def set(self, **settings) -> None:
        overrides = {f"alarms.{name.replace('__', '.')}": value for name, value in settings.items()}
        self.lake.write_configuration(resolve(self.lake, sources=["shapes:9"], overrides=overrides)[1])

    def tick(self, minutes: float = 1) -> str:
        """What the UI shows of the tick."""
        self.now += 60 * minutes
        resources = {"lake": LakeResource(folder=str(self.lake.root))}
        found = alarms(dg.build_sensor_context(self.instance, self.cursor, resources=resources))
        self.cursor = found.cursor
        return found.skip_reason.skip_message

    @property
    def said(self) -> list[str]:
        return [record.getMessage() for record in self._caplog.records if record.name == "alarms under test"]


@pytest.fixture
def lake(tmp_path) -> Lake:
    return current_lake(tmp_path / "a lake")


@pytest.fixture
def instance(lake):
    with dg.instance_for_test() as found:
        found.add_dynamic_partitions("corpus_shards", SHARDS)
        yield found


@pytest.fixture
def watch(lake, instance, monkeypatch, caplog) -> Watch:
    return Watch(lake, instance, monkeypatch, caplog)


JOB = dg.define_asset_job("j").resolve(asset_graph=dg.Definitions([dg.asset(name="pairs")(lambda: None)]).resolve_asset_graph())


def fail(instance: dg.DagsterInstance, partition: str = "", why: str = "the process was killed", **tags: str) -> str:
    """A run that ended badly without a step that failed."""
    tags = {f"dagster/{name}": value for name, value in tags.items()} | ({"dagster/partition": partition} if partition else {})
    run = instance.create_run_for_job(JOB, tags=tags, status=dg.DagsterRunStatus.STARTED)
    instance.report_run_failed(run, why)
    return run.run_id


def fail_pairs(lake: Lake, instance: dg.DagsterInstance, monkeypatch, shard: str = SHARDS[1]) -> str:
    """A run of the graph's own asset that meets a mistake of the user's."""

    def refuse(*_):
        raise UserError(REASON)

    monkeypatch.setattr("mmret.mine.stage.mine_pairs", refuse)
    lake.write_configuration(resolve(lake, sources=["shapes:9"], overrides={"mine.targets_per_query": 2})[1])
    job = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection={dg.AssetKey("pairs")}, asset_check_selection=set()
    )
    config = {"resources": {"lake": {"config": {"folder": str(lake.root)}}}}
    done = job.execute_in_process(partition_key=shard, instance=instance, raise_on_error=False, run_config=config)
    assert not done.success
    return done.run_id


def text_of(lake: Lake, run: str, ui: str | None = None) -> str:
    link = f"{ui}/runs/{run}" if ui else f"/runs/{run} in the UI (`make ui`)"
    return f"""pairs failed for shard-00001.
Why: {REASON}
See: {link}
State: mmret status --lake '{lake.root}'
Go on: mmret run --lake '{lake.root}' (what is finished is kept)"""


def test_an_alarm_names_stage_shard_reason_and_command_in_the_log_in_a_mail_and_to_a_webhook(watch, monkeypatch):
    with serving(Webhook()) as hook, serving(Mail()) as mail:
        monkeypatch.setenv("TEAM_HOOK", hook.url)
        monkeypatch.setenv("MAIL_PASSWORD", "open sesame")
        watch.set(webhook_env="TEAM_HOOK", ui="http://127.0.0.1:3000/")
        to = {"to": ["ann@example.org", "bob@example.org"], "sender": "lake@example.org"}
        by = {"host": "127.0.0.1", "port": mail.port, "user": "lake", "password_env": "MAIL_PASSWORD"}
        watch.set(email=to | by)
        run = fail_pairs(watch.lake, watch.instance, monkeypatch)
        assert watch.tick() == "pairs failed for shard-00001"
        text, root = text_of(watch.lake, run, "http://127.0.0.1:3000"), str(watch.lake.root)
        assert hook.got == [
            {
                "text": text,
                "subject": "mmret: pairs failed for shard-00001",
                "stages": {"pairs": 1},
                "partitions": ["shard-00001"],
                "partitions_not_named": 0,
                "failures": 1,
                "reasons": {REASON: 1},
                "run": run,
                "backfill": "",
                "lake": root,
                "link": f"http://127.0.0.1:3000/runs/{run}",
                "status": f"mmret status --lake '{root}'",
                "command": f"mmret run --lake '{root}'",
            }
        ]
        ((recipients, sent, login),) = mail.got
        assert recipients == "<ann@example.org><bob@example.org>" and login.startswith("AUTH PLAIN ")
        assert (sent["Subject"], sent["From"]) == ("mmret: pairs failed for shard-00001", "lake@example.org")
        assert sent["To"] == "ann@example.org, bob@example.org" and sent["Message-ID"].endswith("@example.org>")
        assert words(sent) == text
        assert watch.said == [
            text,
            "sent by webhook: mmret: pairs failed for shard-00001",
            "sent by email: mmret: pairs failed for shard-00001",
        ]
        assert watch.tick() == "no run has failed" and len(hook.got) == len(mail.got) == 1
    for secret in ("SECRET", "sesame"):
        assert secret not in watch.cursor and secret not in "".join(watch.said)


def test_without_settings_an_alarm_is_logged_and_a_failure_of_before_is_none(watch, instance, monkeypatch, caplog):
    run = fail_pairs(watch.lake, instance, monkeypatch)
    assert watch.tick() == "pairs failed for shard-00001" and watch.said == [text_of(watch.lake, run)]
    assert Watch(watch.lake, instance, monkeypatch, caplog).tick() == "no run has failed"
    assert alarms.default_status == dg.DefaultSensorStatus.RUNNING


def test_a_backfill_of_fifty_failing_shards_is_two_messages(watch, instance, monkeypatch):
    with serving(Webhook()) as hook:
        monkeypatch.setenv("TEAM_HOOK", hook.url)
        watch.set(webhook_env="TEAM_HOOK", window_minutes=30)
        failed = [Failure("pairs", f"shard-{n:05d}", f"no server for shard-{n:05d}", f"run {n}", "abcdefgh") for n in range(50)]
        for ended in (failed[:3], failed[3:21], failed[21:]):
            monkeypatch.setattr("assets.alarms.sensor._failures", lambda *_, ended=ended: ended)
            watch.tick()
        monkeypatch.setattr("assets.alarms.sensor._failures", lambda *_: [])
        assert [each["subject"] for each in hook.got] == ["mmret: 3 failures of pairs, of backfill abcdefgh"]
        assert watch.tick() == "47 gathered until the window ends"
        assert watch.tick(29) == "47 more failures of pairs, of backfill abcdefgh"
        first, rest = hook.got
        assert first["partitions"] == ["shard-00000", "shard-00001", "shard-00002"] and first["failures"] == 3
        assert rest["failures"] == 47 and len(rest["partitions"]) == 20 and rest["partitions_not_named"] == 27
        assert rest["text"].splitlines()[1].startswith("Where: shard-00003, shard-00004, ")
        assert rest["text"].splitlines()[1].endswith("shard-00022 and 27 more")
        assert rest["link"] == "/runs/b/abcdefgh in the UI (`make ui`)"
        assert list(rest["reasons"].values()) == [1, 1, 1, 1, 1, 42] and "others" in rest["reasons"]
        assert watch.tick(100) == "no run has failed" and len(hook.got) == 2


def test_what_mmret_run_launched_and_what_is_started_once_more_raise_no_alarm(watch, instance):
    run = instance.create_run_for_job(JOB, tags={"mmret/lease": "x"}, status=dg.DagsterRunStatus.STARTED)
    instance.report_run_failed(run, "x")
    fail(instance, will_retry="true")
    assert watch.tick() == "no run has failed"
    watch.set(of_terminal=True)
    run = instance.create_run_for_job(JOB, tags={"mmret/lease": "x"}, status=dg.DagsterRunStatus.STARTED)
    instance.report_run_failed(run, "x")
    assert watch.tick() == "j failed"


def test_a_lake_whose_settings_do_not_load_is_told_of_all_the_same(watch, instance):
    configuration = watch.lake.read_configuration()
    watch.lake.write_configuration({**configuration, "profile": "demo", "overrides": {"mine.colour": 1}})
    fail(instance, SHARDS[0])
    assert watch.tick() == "j failed for shard-00000"
    assert watch.said[0].startswith("alarms are only logged until the settings are mended: ")


def test_a_dead_receiver_is_tried_again_and_given_up_and_holds_up_nothing(watch, instance, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("TEAM_HOOK", f"http://127.0.0.1:{unused.getsockname()[1]}/SECRET")
        watch.set(webhook_env="TEAM_HOOK")
        fail(instance, SHARDS[0])
        assert watch.tick() == "j failed for shard-00000; 1 to be sent again"
        assert watch.said[-1] == (
            "not sent yet: mmret: j failed for shard-00000: the webhook did not answer (ConnectError); tried again in 1 min"
        )
        for minutes in (2, 4, 8, 16):
            watch.tick(minutes)
        assert watch.tick(32) == "no run has failed"
    assert watch.said[-1].startswith("not sent, and not tried again: mmret: j failed for shard-00000")
    assert "SECRET" not in watch.cursor + "".join(watch.said)


def test_an_alarm_that_could_not_be_sent_arrives_once_the_receiver_is_back(watch, instance, monkeypatch):
    with serving(Webhook((503, 429, 200))) as hook:
        monkeypatch.setenv("TEAM_HOOK", hook.url)
        watch.set(webhook_env="TEAM_HOOK")
        fail(instance, SHARDS[0])
        assert watch.tick().endswith("1 to be sent again") and watch.tick(0.5) == "1 to be sent again" and len(hook.got) == 1
        assert watch.tick() == "1 to be sent again" and watch.tick(3) == "no run has failed"
        assert len(hook.got) == 3 and hook.got[0] == hook.got[2]


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        (None, "alarms.webhook_env names TEAM_HOOK, which is not set where the code server runs; tried again"),
        ("ftp://x/SECRET", "TEAM_HOOK holds no address of the web"),
        ("SECRET", "TEAM_HOOK holds no address of the web"),
        (404, "the webhook answered 404"),
        (302, "the webhook answered 302"),
    ],
)
def test_a_webhook_that_will_never_take_it_is_named_without_its_address(watch, instance, monkeypatch, hook, said):
    with serving(Webhook((hook if isinstance(hook, int) else 200,))) as server:
        if hook is not None:
            monkeypatch.setenv("TEAM_HOOK", server.url if isinstance(hook, int) else hook)
        watch.set(webhook_env="TEAM_HOOK")
        fail(instance, SHARDS[0])
        watch.tick()
    assert said in watch.said[-1] and watch.said[-1].startswith("not sent")
    assert ("not tried again" in watch.said[-1]) == (hook is not None)
    assert "SECRET" not in watch.cursor + "".join(watch.said)


@pytest.mark.parametrize(("code", "kind"), [(550, deliver.Refused), (451, deliver.NotNow)])
def test_a_mail_server_that_refuses_is_told_by_its_code(code, kind):
    with serving(Mail(refuse=code)) as mail:
        settings = load_profile("demo", {"alarms.email": {"to": ["a@x.org"], "host": "127.0.0.1", "port": mail.port}}).alarms
        group = {
            "count": 1,
            "stages": {"pairs": 1},
            "reasons": {"r": 1},
            "partitions": [],
            "unnamed": 0,
            "run": "1",
            "backfill": "",
        }
        message = compose(group | {"again": False}, "/lake", None)
        with pytest.raises(kind, match=f"answered {code}"):
            deliver.send("email", message, settings)


def test_a_receiver_that_never_answers_costs_the_patience_and_no_more(monkeypatch):
    monkeypatch.setattr(deliver, "PATIENCE", 0.3)
    with serving(Webhook(silent=True)) as hook:
        monkeypatch.setenv("TEAM_HOOK", hook.url)
        settings = load_profile("demo", {"alarms.webhook_env": "TEAM_HOOK"}).alarms
        started = time.monotonic()
        with pytest.raises(deliver.NotNow, match="did not take it within"):
            deliver.send("webhook", SimpleNamespace(text="", subject="", fields={}), settings)
        assert time.monotonic() - started < 2.5


def test_a_failed_check_is_an_alarm_although_its_run_went_on_and_its_other_shards_are_not(instance):
    """Results of other shards are in the log of every run that looks at them; only its own are the run's."""
    error, warn = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
    results = [(SHARDS[1], False, error), (SHARDS[2], False, error), (SHARDS[1], False, warn), (SHARDS[1], True, error)]
    same = {"asset_key": dg.AssetKey("pairs"), "check_name": "ids", "metadata": {"violations": [["a", 2]]}}
    found = [dg.AssetCheckEvaluation(partition=p, passed=passed, severity=s, **same) for p, passed, s in results]

    @dg.op
    def look(context: dg.OpExecutionContext) -> None:
        for each in found:
            context.log_event(each)

    @dg.job
    def checks():
        look()

    done = checks.execute_in_process(instance=instance, tags={"dagster/partition": SHARDS[1]})
    run = instance.get_run_by_id(done.run_id)
    reason = "check ids failed: a, 2"
    assert failures_of(instance, run) == [Failure("pairs", SHARDS[1], reason, run.run_id, check="ids")]


def test_failures_are_told_together_by_backfill_or_by_stage_and_reason():
    def failure(stage="pairs", partition="shard-00001", reason="no shard-00001 at step 7", **more) -> Failure:
        return Failure(stage, partition, reason, "run", **more)

    same = {key_of(failure()), key_of(failure(partition="shard-00002", reason="no shard-00002 at step 12"))}
    assert len(same) == 1
    assert len(same | {key_of(failure(stage="leaks")), key_of(failure(reason="disk full"))}) == 3
    assert key_of(failure(backfill="b")) == key_of(failure(stage="leaks", reason="disk full", backfill="b"))
    assert key_of(failure(check="ids", reason="x")) == key_of(failure(check="ids", reason="y")) != key_of(failure(reason="x"))


def test_a_group_is_silent_for_its_window_and_forgotten_after_it():
    held, quiet = {}, {}
    gather(held, [Failure("pairs", "a", "r", "1")])
    assert [g["again"] for g in due(held, quiet, 0, 60)] == [False] and not held
    gather(held, [Failure("pairs", "b", "r", "2")])
    assert due(held, quiet, 59, 60) == [] and held
    (told,) = due(held, quiet, 60, 60)
    assert told["again"] and told["partitions"] == ["b"]
    assert due(held, quiet, 120, 60) == [] and not quiet


def test_many_different_failures_at_once_share_one_message(watch, instance):
    for word in ("one", "two", "three", "four", "five", "six"):
        fail(instance, SHARDS[0], f"it is {word}")
    assert watch.tick() == f"{MOST_MESSAGES + 1} failures of {MOST_MESSAGES + 1} kinds"
    (said,) = watch.said
    assert said.count("* j failed for shard-00000: it is ") == 6 and said.count("mmret run") == 1


def test_words_of_the_data_stay_one_line_and_ping_nobody(monkeypatch):
    assert one_line("a\nb\x1b[31m\u202ec") == "a b�[31m�c" and len(one_line("x" * 5000)) == 600
    group = {"count": 1, "stages": {"pairs": 1}, "partitions": [], "unnamed": 0, "run": "1", "backfill": "", "again": False}
    message = compose(group | {"reasons": {"<!channel> &\nSubject: x": 1}}, "/lake", None)
    assert "\n" not in message.subject and "Why: <!channel> & Subject: x" in message.text
    with serving(Webhook()) as hook:
        monkeypatch.setenv("TEAM_HOOK", hook.url)
        deliver.send("webhook", message, load_profile("demo", {"alarms.webhook_env": "TEAM_HOOK"}).alarms)
    assert "&lt;!channel&gt; &amp; Subject: x" in hook.got[0]["text"]
    kinds = [group | {"reasons": {f"reason {n}": 1}} for n in range(30)]
    assert compose_many(kinds, "/lake", None).text.splitlines()[21] == "* and 10 more kinds"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"alarms.webhook_env": "https://hooks.example.org/SECRET"}, "the name of an environment variable"),
        ({"alarms.email.user": "ann"}, "user needs password_env"),
        ({"alarms.window_minutes": 0}, "greater than 0"),
    ],
)
def test_a_secret_given_as_a_setting_is_refused_and_not_repeated(settings, said):
    with pytest.raises(UserError, match=said) as refused:
        load_profile("demo", settings)
    assert "SECRET" not in str(refused.value)


def test_the_address_of_the_ui_is_a_setting_that_the_lake_takes(tmp_path):
    lake = Lake(tmp_path)
    settings, _ = resolve(lake, sources=["shapes:9"], overrides={"alarms.ui": "http://127.0.0.1:3000"})
    assert settings.alarms.ui == "http://127.0.0.1:3000"
    assert json.loads(settings.alarms.model_dump_json())["webhook_env"] is None
