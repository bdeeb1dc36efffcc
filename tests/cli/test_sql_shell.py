"""The shell of `mmret sql`: what a person types at a terminal, what Tab offers, what is kept, and what a Ctrl-C stops."""

import os
import pty
import re
import select
import stat
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from mmret.cli.sql_completion import Words, complete, read_words
from mmret.cli.sql_prompt import history_file, is_complete, open_history
from mmret.cli.sql_shell import Shell
from mmret.errors import UserError
from mmret.lake import Lake, history
from mmret.schemas import CORPUS_MANIFEST, TABLES, column_comment
from mmret.warehouse.session import Session

HEAVY = "SELECT count(*) FROM range(100000000000) r(i) WHERE hash(i) = 3;"


@pytest.fixture
def lake(tmp_path) -> Lake:
    lake = Lake(tmp_path / "lake")
    lake.write("corpus_manifest", "shard-00000", CORPUS_MANIFEST.empty_table(), "x")
    return lake


_SEQUENCES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A process on a terminal of 80 columns."""

    def __init__(self, line: list[str], environment: dict[str, str]):
        self.pid, self.handle = pty.fork()
        if self.pid == 0:
            os.execve(line[0], line, {**os.environ, **environment})
        self.seen = b""

    def wait(self, text: bytes, most: float = 120) -> None:
        """Until ``text`` appears, in one piece or, on a slow machine, in several with sequences between; what was before is
        forgotten."""
        until = time.monotonic() + most
        while text not in self.seen and text not in (plain := _SEQUENCES.sub(b"", self.seen)):
            assert time.monotonic() < until, (text, self.seen[-500:])
            if select.select([self.handle], [], [], 1)[0]:
                self.seen += os.read(self.handle, 65536)
        self.seen = (self.seen if text in self.seen else plain).split(text, 1)[1]

    def type(self, text: bytes) -> None:
        os.write(self.handle, text)

    def end(self) -> int:
        try:
            while os.read(self.handle, 65536):
                pass
        except OSError:
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_person_s_session(lake, tmp_path):
    shell = Terminal(
        [sys.executable, "-m", "mmret", "sql", "--lake", str(lake.root)],
        {"XDG_STATE_HOME": str(tmp_path / "state"), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "NO_COLOR": "1"},
    )
    shell.wait(b"lake>")
    shell.type(b"SELECT 1 AS\r")
    shell.wait(b"...")
    shell.type(b"one;\r")
    shell.wait(b"1 rows")
    shell.wait(b"lake>")
    shell.type(b"FROM corpus_man\t")
    shell.wait(b"corpus_manifest")
    shell.type(b" LIMIT 3;\r")
    shell.wait(b"0 rows")
    shell.wait(b"lake>")
    shell.type(b"SELECT nosuch;\r")
    shell.wait(b"error: SQL")
    shell.wait(b"lake>")
    shell.type(HEAVY.encode() + b"\r")
    shell.wait(b"\x1b[?2004l")  # the editor lets the terminal go
    time.sleep(0.5)
    started = time.monotonic()
    shell.type(b"\x03")
    shell.wait(b"interrupted")
    assert time.monotonic() - started < 20
    shell.wait(b"lake>")
    shell.type(b"never run\x03")
    shell.wait(b"lake>")
    shell.wait(b"lake>")
    shell.type(b"\x04")
    assert shell.end() == 0
    kept = tmp_path / "state" / "mmret" / "sql_history"
    assert [line for line in kept.read_text().splitlines() if line.startswith("+")] == [
        "+SELECT 1 AS", "+one;", "+FROM corpus_manifest LIMIT 3;", "+SELECT nosuch;", f"+{HEAVY}",
    ]  # fmt: skip
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and not list(lake.root.rglob("*history*.txt"))


def test_what_is_written_meanwhile_is_seen_by_the_next_statement(lake, capsys):
    shell = Shell(Session(lake))
    shell.run_line("SELECT count(*) AS n FROM leaks")
    lake.write("leaks", "all", pa.Table.from_pylist([{"image_id": "a"}] * 7, TABLES["leaks"]), "x")
    shell.run_line("SELECT count(*) AS n FROM leaks;")
    assert [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip().isdigit()] == ["0", "7"]
    opened = shell.session.opened
    shell.run_line("SELECT 1;")
    assert shell.session.opened == opened == 2


def test_a_state_stays_as_it_was(lake, capsys):
    history.log_run(lake, "run-1", 0, {})
    shell = Shell(Session(lake, "run-1"))
    lake.write("leaks", "all", pa.Table.from_pylist([{"image_id": "a"}], TABLES["leaks"]), "x")
    shell.run_line("SELECT count(*) AS n FROM leaks")
    assert "0" in capsys.readouterr().out.split()


def test_the_shell_only_reads_and_takes_no_variable_of_the_program_for_a_table(lake):
    shell = Shell(Session(lake))
    rows = pa.table({"secret": [1]})  # noqa: F841
    for text, said in (("DROP VIEW images;", "DROP"), ("COPY leaks TO 'x.csv';", "COPY"), ("FROM rows;", "rows does not exist")):
        with pytest.raises(UserError, match=said):
            shell.run_line(text)


def test_commands_of_the_shell(lake, capsys):
    shell = Shell(Session(lake))
    shell.run_line(".tables")
    listed = capsys.readouterr().out
    assert all(name in listed for name in (*TABLES, "triplets_wide", "partitions")) and "made" not in listed.split()
    shell.run_line(".schema leaks")
    columns = capsys.readouterr().out.splitlines()[3:-2]
    assert [line.split()[1] for line in columns] == TABLES["leaks"].names
    assert all(line.endswith(column_comment("leaks", line.split()[1])) for line in columns)
    shell.run_line(".wide")
    assert shell.wide and "on" in capsys.readouterr().out
    shell.run_line(".wide off")
    shell.run_line("exit;")
    assert shell.ended and not shell.wide
    for text, said in (
        (".nosuch", "no such command"),
        (".schema nosuch", "no table nosuch; there are"),
        (".wide maybe", "no such"),
    ):
        with pytest.raises(UserError, match=said):
            shell.run_line(text)


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("", True), ("SELECT 1", False), ("SELECT 1;", True), ("SELECT ';", False), ("SELECT 1; -- done", True),
        ("SELECT 1; x", False),
        (".tables", True), ("exit", True), ("SELECT 1\n;", True), ("/* ;", False), ("x\udcff", True),
    ],
)  # fmt: skip
def test_enter_ends_a_statement_with_its_semicolon_only(text, ended):
    assert is_complete(text) is ended


WORDS = Words({"images": ("image_id", "caption"), "pairs": ("pair_id", "query_id")}, ("from", "select", "where"), ("count", "cosh"))


@pytest.mark.parametrize(
    ("before", "after", "offered"),
    [
        ("FROM im", "", ["images"]), ("select * from ", "", ["images", "pairs"]), ("SELECT cap", " FROM images", ["caption"]),
        ("SELECT p.", " FROM pairs p", ["pair_id", "query_id"]), ("SELECT i.im", " FROM pairs JOIN images AS i", ["image_id"]),
        ("SELECT images.c", "", ["caption"]), ("sel", "", ["select"]), ("SEL", "", ["SELECT"]), ("SELECT cou", "", ["count("]),
        ("SELECT 'im", "", []), ('SELECT "im', "", []), ("-- im", "", []), ("SELECT 'a' || im", "", ["image_id", "images"]),
        (".sch", "", [".schema"]), (".schema pa", "", ["pairs"]), (".wide ", "", ["on", "off"]), ("SELECT nosuch.", "", []),
        ("SELECT que", " FROM pairs WHERE", ["query_id"]), ("SELECT que", " FROM images", []), ("x\udcff im", "", []),
    ],
)  # fmt: skip
def test_tab_offers_what_fits_the_place(before, after, offered):
    word, found = complete(before, after, WORDS)
    assert [text for text, _ in found] == offered and before.endswith(word)


def test_the_words_are_those_of_the_lake(lake):
    words = read_words(Session(lake).connection())
    assert words.tables["leaks"] == tuple(TABLES["leaks"].names) and {"partitions", "runs", "triplets_wide"} <= words.tables.keys()
    assert {"select", "by", "join"} <= set(words.keywords) and "count" in words.functions


def test_a_history_that_cannot_be_kept_is_one_of_this_session(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    unkept = open_history(tmp_path / "file" / "sql_history")
    unkept.append_string("SELECT 1;")
    assert unkept.get_strings() == ["SELECT 1;"]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    kept = open_history(history_file())
    kept.append_string("SELECT 2;")
    assert list(open_history(history_file()).load_history_strings()) == ["SELECT 2;"]
    monkeypatch.setattr("builtins.open", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    kept.append_string("SELECT 3;")
    assert kept.get_strings()[-1] == "SELECT 3;"


def test_a_long_history_keeps_its_newer_half(tmp_path, monkeypatch):
    file = tmp_path / "sql_history"
    kept = open_history(file)
    for n in range(100):
        kept.append_string(f"SELECT {n};")
    monkeypatch.setattr("mmret.cli.sql_prompt._LARGEST", 1000)
    strings = list(open_history(file).load_history_strings())
    assert strings[0] == "SELECT 99;" and strings == [f"SELECT {n};" for n in range(99, 99 - len(strings), -1)]
    assert 30 < len(strings) < 60 and Path(file).stat().st_size < 3000
