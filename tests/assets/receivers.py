"""Servers on this machine that take alarms: one for webhooks, one for mail; they remember what they were sent."""

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Webhook(ThreadingHTTPServer):
    """``answers``: the codes it answers with, the last one for ever. ``silent``: it takes the question and says nothing."""

    def __init__(self, answers: tuple[int, ...] = (200,), silent: bool = False):
        self.answers, self.silent, self.got = [*answers], silent, []
        super().__init__(("127.0.0.1", 0), _Hook)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/services/SECRET"


class _Hook(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Content-Type"] == "application/json" and self.path == "/services/SECRET"
        self.server.got.append(json.loads(body))
        if self.server.silent:
            time.sleep(3)
            return
        code = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        self.send_response(code)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Mail(socketserver.ThreadingTCPServer):
    """Takes mail as SMTP has it, without encryption; ``refuse``: the code it answers to every recipient."""

    def __init__(self, refuse: int | None = None):
        self.refuse, self.got = refuse, []
        super().__init__(("127.0.0.1", 0), _Smtp)

    @property
    def port(self) -> int:
        return self.server_address[1]


class _Smtp(socketserver.StreamRequestHandler):
    server: Mail

    def say(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")

    def handle(self) -> None:
        self.say("220 here")
        logged_in = recipients = ""
        for line in self.rfile:
            said = line.decode().strip()
            verb = said.split(" ")[0].upper()
            if verb == "EHLO":
                self.say("250-here")
                self.say("250 AUTH PLAIN")
            elif verb == "AUTH":
                logged_in = said
                self.say("235 welcome")
            elif verb == "RCPT" and self.server.refuse:
                self.say(f"{self.server.refuse} no")
            elif verb == "DATA":
                self.say("354 go on")
                text = b""
                while (part := self.rfile.readline()) != b".\r\n":
                    text += part
                self.server.got.append((recipients, message_from_bytes(text, policy=policy.default), logged_in))
                self.say("250 taken")
            elif verb == "QUIT":
                self.say("221 bye")
                return
            else:
                recipients += said.partition(":")[2] if verb == "RCPT" else ""
                self.say("250 well")


@contextmanager
def serving(server: Any) -> Iterator[Any]:
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def words(mail: EmailMessage) -> str:
    return "\n".join(mail.get_content().strip().splitlines())
