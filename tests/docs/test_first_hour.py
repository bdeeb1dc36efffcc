"""docs/first-hour.md: its commands exist with these flags, and in order they do what the page says, on thirty photos."""

import csv
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from itertools import islice
from pathlib import Path

import pytest

from mmret.ingest.shapes import caption, scene
from mmret.ingest.shapes_render import render
from tests.cli.test_command_flags import actual
from tests.conftest import CHECKOUT, SHARED
from tests.docs.first_hour import PAGE, Step, fits, pattern, steps
from tests.small_runs import TINY

PHOTOS = SHARED / "data" / "openstax_photos"


def test_every_command_and_flag_of_the_page_exists():
    known = actual()
    calls = re.findall(
        r"mmret ((?!-)[a-z-]+)([^`|\n]*)", "\n".join([*(s.commands for s in steps()), *re.findall(r"`([^`]*)`", PAGE)])
    )
    assert {"run", "status", "sql", "search", "gallery", "evaluate", "estimate"} <= {name for name, _ in calls}
    for name, rest in calls:
        flags = set(re.findall(r"(?<!\S)--?[a-z][\w-]*", rest.split('"')[0]))
        assert name in known and flags <= {part for flag in known[name] for part in flag.split("/")}, (name, flags)


def test_both_ways_to_install_are_there():
    makefile, project = (CHECKOUT / "Makefile").read_text(), (CHECKOUT / "pyproject.toml").read_text()
    assert "make setup" in PAGE and re.search(r"^setup:", makefile, re.MULTILINE)
    assert "pip install -e '.[gallery]'" in PAGE and re.search(r"^gallery = \[", project, re.MULTILINE)
    assert 'requires-python = ">=3.11,<3.14"' in project and "Python 3.11, 3.12 or 3.13" in PAGE


def test_what_is_shown_is_compared_word_by_word_and_number_for_any_number():
    step = Step("", "pairs: 85 for 30 of 30 images\n…\nDone in 5 min 44 s.\n", False)
    assert fits(step, "\npairs: 1,085 for 9 of 9   images\nmore\nDone in 12 s.\n")
    assert not fits(step, "pairs: 85 for 30 of 30 pictures\nDone in 12 s.")
    table = Step("", "  path  score\n ───\n  a     0.1\n  b     0.2\n", True)
    assert fits(table, "path  score\n──────\nx  1\ny  2\n") and not fits(table, "path  score\n──────\nx  1\n")
    assert not pattern("2 rows").search("no rows")


def photos(count: int) -> list[tuple[bytes, str]]:
    """Real photographs with their captions where the folder of them is there, else scenes: (JPEG or PNG file, caption)."""
    if not PHOTOS.is_dir():
        return [(render(scene(5, i)), caption(scene(5, i))) for i in range(count)]
    lines = (json.loads(line) for line in (PHOTOS / "captions.jsonl").open())
    chosen = islice((line for line in lines if line["kind"] == "photo"), count)
    return [((PHOTOS / line["image"]).read_bytes(), line["caption"]) for line in chosen]


def name_of(number: int) -> str:
    return f"IMG_{number:04d}.jpg"


class Person:
    """Whoever follows the page: copies photos, writes captions, types the commands into a shell in ``folder``."""

    def __init__(self, folder: Path):
        self.folder, self.pictures = folder, photos(40)
        tools = folder / "bin"
        tools.mkdir()
        # the towers and the training of the page's profile take minutes; smaller ones print the same lines
        small = " ".join(shlex.quote(part) for setting in TINY for part in ("--set", setting))
        (tools / "mmret").write_text(
            f'#!/bin/sh\ncase $1 in run) set -- "$@" {small};; esac\nexec {sys.executable} -W ignore -m mmret "$@"\n'
        )
        (tools / "mmret").chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(CHECKOUT)}
        self.environment |= {"PYTHONUNBUFFERED": "1", "BROWSER": "true"}
        (folder / "photos").mkdir()
        for number, (data, _) in enumerate(self.pictures[:30], 1):
            (folder / "photos" / name_of(number)).write_bytes(data)

    def write_captions(self) -> None:
        out = io.StringIO()
        csv.writer(out).writerows(
            [("image", "caption"), *((name_of(n), text) for n, (_, text) in enumerate(self.pictures[:30], 1))]
        )
        (self.folder / "photos" / "captions.csv").write_text(out.getvalue())

    def bring_ten_more(self) -> None:
        (self.folder / "more").mkdir()
        for number, (data, text) in enumerate(self.pictures[30:], 31):
            (self.folder / "more" / name_of(number)).write_bytes(data if number < 40 else b"<!DOCTYPE html><p>Not found")
            if number != 39:
                (self.folder / "more" / name_of(number)).with_suffix(".txt").write_text(text)

    def types(self, commands: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", commands], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=1500
        )
        return done.returncode, done.stdout + "".join(line + "\n" for line in done.stderr.splitlines() if "error:" in line)

    def opens(self, commands: str) -> str:
        """The first line of a server's output, once the page at its address has answered; Ctrl-C must end it."""
        line = ["bash", "-c", f"exec {commands} --port 0"]
        with subprocess.Popen(line, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True) as server:
            try:
                said = server.stdout.readline()
                address = re.search(r"http://\S+", said)[0]
                for page in ("/", "/search"):
                    with urllib.request.urlopen(address + page, timeout=300) as answer:
                        assert answer.status == 200 and b"mine" in answer.read()
            finally:
                server.send_signal(signal.SIGINT)
                server.wait(60)
        return said


@pytest.mark.slow
def test_word_by_word_the_page_leads_from_thirty_photos_to_a_search_page(tmp_path):
    pytest.importorskip("nicegui", reason="the page needs the extra 'gallery'")
    person, refused = Person(tmp_path), 0
    for step in steps():
        if "--images more" in step.commands:
            person.bring_ten_more()
        if step.commands.startswith("mmret gallery"):
            output = person.opens(step.commands)
        else:
            code, output = person.types(step.commands)
            assert code == (2 if step.shown.startswith("error:") else 0), (step.commands, output[-3000:])
        assert fits(step, output), f"{step.commands}\n--- the page shows\n{step.shown}\n--- what came\n{output[-5000:]}"
        if step.shown.startswith("error:"):
            refused += 1
            person.write_captions()
    assert refused == 1
