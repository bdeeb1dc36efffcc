"""Sends a plan of requests at the times that it says, by locust: whoever waits for a slow answer does not thin out the load.

    locust -f bench/serving/arrivals.py --headless --users 64 --spawn-rate 1000 --host http://127.0.0.1:8000 \\
        --plan plan.parquet --answers answers.parquet

Each of locust's users has one connection; whichever is free takes the next request of the plan and sleeps until it is due. If
all are busy it leaves late. Latency counts from when it was due, so a server that stalls is charged for every request that
would have come meanwhile (wrk2's way; locust's own figures are given the same latencies). Loopback only, and it ends by itself
with its plan. Cost: some 0.3 ms of one core a request.
"""

from __future__ import annotations

import gc
import resource
import time

import gevent
import pyarrow as pa
import pyarrow.parquet as pq
from geventhttpclient.client import HTTPClient
from locust import User, events, task
from locust.exception import StopUser

ERRORS_KEPT = 100  # bodies of refusals
GIVEN_UP_S = 10.0
"""After its last request was due, and the time for sending again, what is left of a plan is not sent: the server is too slow."""
RETRY_S = 0.1
"""Wait before a request whose connection was refused or broken is sent again, where the plan says for how long."""
TIMEOUT_S = 10.0
LEAD_S = 0.5  # between the start of the users and the first request

ANSWERS = pa.schema(
    [
        ("due", pa.float64()),  # seconds of time.monotonic, the same in every process of a machine
        ("sent", pa.float64()),
        ("done", pa.float64()),
        ("label", pa.string()),
        ("status", pa.int16()),  # 0: no answer
        ("attempts", pa.int32()),
        ("request", pa.int32()),  # row of the plan
        ("body", pa.binary()),  # where the plan says keep, and of refusals
        ("error", pa.string()),
    ]
)


class Plan:
    """The rows of a plan (:data:`serving.load.PLAN`) that nobody has taken yet, and what was answered."""

    def __init__(self, path: str):
        table = pq.read_table(path)
        self.rows = list(zip(*(table[name].to_pylist() for name in ("due", "label", "path", "body", "keep")), strict=True))
        self.retry_s = float((table.schema.metadata or {}).get(b"retry_s", b"0"))
        self.taken = 0
        self.start = self.end = 0.0
        self.answers: list[tuple] = []
        self.refusals = 0
        self.busy = 0.0  # processor seconds


plan: Plan


@events.init_command_line_parser.add_listener
def _arguments(parser) -> None:
    parser.add_argument("--plan", required=True, help="Parquet file of requests")
    parser.add_argument("--answers", required=True, help="Parquet file to write")


@events.test_start.add_listener
def _start(environment, **_) -> None:
    global plan
    plan = Plan(environment.parsed_options.plan)
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection would be counted as the server's time
    plan.start = time.monotonic() + LEAD_S
    plan.end = plan.start + plan.rows[-1][0] + plan.retry_s + GIVEN_UP_S
    plan.busy = _processor_seconds()


@events.test_stop.add_listener
def _write(environment, **_) -> None:
    columns = zip(*plan.answers, strict=True) if plan.answers else [[] for _ in ANSWERS]
    used = {"processor_s": str(_processor_seconds() - plan.busy), "start": str(plan.start)}
    arrays = [pa.array(list(c), field.type) for c, field in zip(columns, ANSWERS, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=ANSWERS.with_metadata(used)), environment.parsed_options.answers)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Caller(User):
    """One connection."""

    def on_start(self) -> None:
        self.connect()

    def connect(self) -> None:
        """A client that connects with its next request; one whose connection broke cannot be used again."""
        host, port = self.host.removeprefix("http://").split(":")
        self.client = HTTPClient(host, int(port), connection_timeout=TIMEOUT_S, network_timeout=TIMEOUT_S)

    @task
    def take(self) -> None:
        row = plan.taken
        if row == len(plan.rows):
            if len(plan.answers) == len(plan.rows):
                self.environment.runner.quit()
            raise StopUser
        plan.taken += 1
        due, label, path, body, keep = plan.rows[row]
        due += plan.start
        if (ahead := due - time.monotonic()) > 0:
            gevent.sleep(ahead)
        sent, attempts, error, status, answer = time.monotonic(), 0, None, 0, b""
        if sent > plan.end:
            error = "not sent: the answers before it took too long"
        while sent <= plan.end:
            attempts += 1
            try:
                status, answer = self._ask(path, body)
                break
            except Exception as broken:  # noqa: BLE001  refused, reset, timed out, half an answer: each is counted
                self.connect()
                error = f"{type(broken).__name__}: {broken}"
                if time.monotonic() > sent + plan.retry_s:
                    break
                gevent.sleep(RETRY_S)
        done = time.monotonic()
        if status and status != 200:
            plan.refusals += 1
            keep = keep or plan.refusals <= ERRORS_KEPT
        plan.answers.append((due, sent, done, label, status, attempts, row, answer if keep else None, error))
        self.environment.events.request.fire(
            request_type="POST" if body else "GET",
            name=label,
            response_time=(done - due) * 1000,
            response_length=len(answer),
            exception=None if status == 200 else RuntimeError(error or f"status {status}"),
            context={},
        )

    def _ask(self, path: str, body: bytes | None) -> tuple[int, bytes]:
        if body is None:
            response = self.client.get(path)
        else:
            response = self.client.post(path, body, {"Content-Type": "application/json"})
        return response.status_code, bytes(response.read())
