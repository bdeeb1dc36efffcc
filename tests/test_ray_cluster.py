"""A cluster is the one that is named; why none is reached is told in a sentence, and one that falls silent is given up."""

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

pytest.importorskip("ray", reason="the extra `cluster` is not installed")

from mmret import ray_cluster
from mmret.ray_cluster import ClusterUnreachable, jobs_at


@contextmanager
def head(status: int = 200, silent_s: float = 0.0) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            import ray

            if self.path != "/api/version":
                time.sleep(silent_s)
            told = {"version": "4", "ray_version": ray.__version__, "ray_commit": "", "session_name": "s"}
            data = json.dumps(told).encode() if status == 200 else b"Unauthorized: Invalid or missing authentication token"
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(BrokenPipeError):
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_cluster_that_answers_is_the_one_named_or_that_of_the_environment(monkeypatch):
    with head() as url:
        monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        assert jobs_at(url).get_address() == url
        with pytest.raises(ClusterUnreachable, match="which Ray cluster"):
            jobs_at(None)
        monkeypatch.setenv("RAY_ADDRESS", url)
        assert jobs_at(None).get_address() == url


def test_one_that_lets_nobody_in_is_a_sentence():
    with head(401) as url, pytest.raises(ClusterUnreachable, match="wants a token: set RAY_AUTH_MODE=token"):
        jobs_at(url)


def test_one_that_falls_silent_is_given_up(monkeypatch):
    monkeypatch.setattr(ray_cluster, "TIMEOUT_S", (1.0, 0.3))
    with head(silent_s=1.0) as url:
        client = jobs_at(url)
        with pytest.raises(OSError, match="timed out"):
            client.list_jobs()
