"""Jobs of a Ray cluster that cannot be reached for a while: each is asked for until it is there, and once."""

from types import SimpleNamespace

import pytest

pytest.importorskip("dagster_ray", reason="the extra `cluster` is not installed")

from assets.cluster import steps
from assets.cluster.nodes import Asked


class Head:
    """Answers in turn what the test says: an error, or the id of the job."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def submit_job(self, **job):
        self.asked.append(job)
        told = self.answers.pop(0)
        if isinstance(told, Exception):
            raise told
        return told


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(steps.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(steps.time, "sleep", lambda seconds: setattr(clock, "now", clock.now + seconds))


def submit(head: Head) -> str:
    asking = steps._Asking(head)
    asking.asked = Asked(2.0, 0.0, 2**30)
    return asking.submit_job(submission_id="step-1", entrypoint="dagster api execute_step", entrypoint_num_cpus=9)


def test_a_job_is_what_its_step_asks_for_by_the_starter_of_its_node():
    head = Head("step-1")
    assert submit(head) == "step-1"
    assert head.asked[0]["entrypoint"] == "python -m assets.cluster.step dagster api execute_step"
    assert head.asked[0]["entrypoint_num_cpus"] == 2.0 and head.asked[0]["entrypoint_num_gpus"] is None


def test_a_head_that_is_cut_off_is_asked_again_and_a_job_that_it_began_meanwhile_is_the_one():
    assert submit(Head(ConnectionError("cut off"), TimeoutError(), "step-1")) == "step-1"
    head = Head(TimeoutError("its answer was lost"), RuntimeError("Job with submission_id step-1 already exists"))
    assert submit(head) == "step-1" and len(head.asked) == 2


def test_what_a_head_refuses_is_not_asked_again_and_one_that_stays_away_is_given_up():
    for answers in ([RuntimeError("no such environment")], [RuntimeError("Job with submission_id step-1 already exists")]):
        with pytest.raises(RuntimeError, match="no such|already"):
            submit(Head(*answers))
    with pytest.raises(ConnectionError, match="gone"):
        submit(Head(*[ConnectionError("gone")] * 100))
