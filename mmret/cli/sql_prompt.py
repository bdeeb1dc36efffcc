"""The line editor of the SQL shell: prompt_toolkit with the words of the lake, a history file, and Enter that waits for ``;``.

Starting it takes some 0.2 s; reading the words, 50 ms, once each time the lake was opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer, Completion
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.lexers import PygmentsLexer
from prompt_toolkit.shortcuts import CompleteStyle
from pygments.lexers.sql import PostgresLexer

from mmret.cli.sql_completion import Words, complete, read_words
from mmret.errors import UserError
from mmret.warehouse.query import says_something, split_statements
from mmret.warehouse.session import Session

_LARGEST = 2**20
"""Bytes of a history; of a larger one the newer half is kept."""


def make_prompt(prompt: str, session: Session, history: Path) -> Callable[[], str]:
    """A function that asks for one statement or command and returns its text; EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C."""
    editor: PromptSession[str] = PromptSession(
        prompt,
        history=open_history(history),
        completer=LakeCompleter(session),
        complete_style=CompleteStyle.MULTI_COLUMN,
        complete_while_typing=False,
        lexer=PygmentsLexer(PostgresLexer),
        multiline=Condition(lambda: not is_complete(editor.default_buffer.text)),
        prompt_continuation=lambda width, *_: "... ".rjust(width),
        enable_open_in_editor=True,
    )
    return editor.prompt


def is_complete(text: str) -> bool:
    """Whether Enter ends ``text``: nothing, a command, or a statement with its semicolon and at most a comment behind it."""
    stripped = text.strip()
    if not stripped or stripped.startswith(".") or stripped.lower() in ("exit", "quit"):
        return True
    try:
        statements, rest = split_statements(text)
    except UserError:
        return True
    return bool(statements) and not says_something(rest)


def history_file() -> Path:
    """Where the statements of this user's shells are kept: ``sql_history`` in the user's folder for state (``XDG_STATE_HOME``)."""
    from platformdirs import user_state_path

    return user_state_path("mmret", appauthor=False) / "sql_history"


class LakeCompleter(Completer):
    """Completes from the words of the lake as it was opened last."""

    def __init__(self, session: Session):
        self._session, self._words, self._read_at = session, Words({}), 0

    def get_completions(self, document: Any, complete_event: Any) -> Iterator[Completion]:
        if self._read_at != self._session.opened:
            self._words = read_words(self._session.connection(look=False))
            self._read_at = self._session.opened
        word, found = complete(document.text_before_cursor, document.text_after_cursor, self._words)
        for text, kind in found:
            yield Completion(text, start_position=-len(word), display_meta=kind)


class _KeptHistory(FileHistory):
    """A history that a full disk or a folder without rights does not end the shell for."""

    def store_string(self, string: str) -> None:
        with suppress(OSError):
            super().store_string(string)


def open_history(file: Path) -> History:
    """The statements of before; kept in memory alone where ``file`` cannot be written. Only its user can read the file."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(file, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600))
        if file.stat().st_size > _LARGEST:
            _keep_newer_half(file)
    except OSError:
        return InMemoryHistory()
    return _KeptHistory(str(file))


def _keep_newer_half(file: Path) -> None:
    from mmret.atomic import replacing

    whole = file.read_bytes()
    entry = whole.find(b"\n\n# ", len(whole) // 2)  # each begins with an empty line and a time
    with replacing(file) as aside:
        aside.write_bytes(whole[entry + 1 :] if entry >= 0 else b"")
        aside.chmod(0o600)
