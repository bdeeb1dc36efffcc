"""The shell of ``mmret sql``: statements of several lines, completion, a history; each statement sees the lake as it is then.

It only reads, as the command does. Ctrl-C stops what runs and not the shell. The history is a person's, not the lake's: it lies in
the user's state folder, for that user alone. Nothing here is loaded for a query that is given with the command.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from mmret.cli.sql_table import print_table
from mmret.cli.terminal import one_line
from mmret.errors import UserError
from mmret.interrupts import Terminated
from mmret.schemas import TABLES
from mmret.system_errors import explain
from mmret.warehouse.query import Rows, ask, says_something, split_statements
from mmret.warehouse.session import Session
from mmret.warehouse.views import sql_literal

HELP = """\
A statement ends with a semicolon and may have several lines; Tab completes names and keywords.
.tables        the tables, with their rows; `views` are joins of them
.schema TABLE  its columns, as DESCRIBE TABLE; does; without TABLE, those of all
.wide [on|off] lines of any length instead of tables cut to the terminal
.help          this
.quit          leave, as Ctrl-D does; Ctrl-C stops a query"""


class Shell:
    """Statements and commands over the tables of ``session``, from a person or from a text."""

    def __init__(self, session: Session, wide: bool = False):
        self.session, self.wide = session, wide
        self.ended = False

    # -- what both ways share -------------------------------------------------------------------------------------------

    def run_line(self, text: str) -> None:
        """Run a command, or every statement of ``text`` whose semicolon is optional at the end. Raises UserError at the first that
        cannot be run."""
        stripped = text.strip()
        if stripped.startswith(".") or stripped.rstrip("; ").lower() in ("exit", "quit"):
            self._command(*stripped.rstrip(";").split())
            return
        statements, rest = split_statements(text)
        for statement in filter(says_something, [*statements, rest]):
            self._show(ask(self.session.connection(), statement))

    def _show(self, rows: Rows) -> None:
        print_table(rows, self.wide)

    def _command(self, name: str, *arguments: str) -> None:
        if name in (".quit", ".exit", "quit", "exit"):
            self.ended = True
        elif name == ".help":
            print(HELP)
        elif name == ".tables":
            self._show(ask(self.session.connection(), _TABLES))
        elif name == ".schema" and len(arguments) < 2:
            self._schema(*arguments)
        elif name == ".wide" and arguments in ((), ("on",), ("off",)):
            self.wide = arguments == ("on",) or (not arguments and not self.wide)
            print(f"wide is {'on' if self.wide else 'off'}")
        else:
            raise UserError(f"{' '.join((name, *arguments))}: no such command; .help has them all")

    def _schema(self, table: str | None = None) -> None:
        from mmret.cli.sql_completion import read_words

        connection = self.session.connection()
        tables = read_words(connection).tables
        if table is not None and table not in tables:
            raise UserError(f"no table {table}; there are {', '.join(sorted(tables))}")
        where = "" if table is None else f" AND table_name = {sql_literal(table)}"
        self._show(ask(connection, _COLUMNS + where + " ORDER BY table_name, column_index"))

    # -- statements from a file or pipe ---------------------------------------------------------------------------------

    def run_text(self, text: str) -> None:
        """Run the statements of ``text``, and commands on lines of their own; the first error ends it.

        Raises UserError where there is none.
        """
        pending, ran = "", False
        for line in text.splitlines(keepends=True):
            if not pending.strip() and line.lstrip().startswith("."):
                self.run_line(line)
                ran = True
                continue
            statements, pending = split_statements(pending + line)
            for statement in filter(says_something, statements):
                self.run_line(statement)
                ran = True
            if self.ended:
                return
        if says_something(pending):
            self.run_line(pending)
        elif not ran:
            raise UserError('no statement on standard input: give one SELECT, such as "SELECT count(*) FROM triplets"')

    # -- a person at a terminal -----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Ask for statements until Ctrl-D or ``.quit``."""
        from mmret.cli.sql_prompt import history_file, make_prompt

        self.session.connection()  # what is wrong with the lake is said before the first prompt
        place = self.session.lake.name + (f" as of {self.session.as_of}" if self.session.as_of else "")
        print(f"The tables of {one_line(self.session.lake.address)}, read only. .help for help, Ctrl-D to leave.")
        ask_for_text = make_prompt(f"{one_line(place)}> ", self.session, history_file())
        while not self.ended:
            if (text := _read(ask_for_text)) is None:
                return
            self._answer(text)

    def _answer(self, text: str) -> None:
        try:
            self.run_line(text)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
        except Terminated:
            raise
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
        except Exception as error:
            if (said := explain(error)) is None:
                raise
            print(f"error: {said}", file=sys.stderr)


def _read(ask_for_text: Callable[[], str]) -> str | None:
    """The next text, None at the end; Ctrl-C at the prompt drops what was typed."""
    while True:
        try:
            return ask_for_text()
        except EOFError:
            return None
        except Terminated:
            raise
        except KeyboardInterrupt:
            continue


_LEFT_OUT = "('made')"  # the catalogue's note of what it was built from
_COLUMNS = f"""
SELECT table_name AS "table", column_name AS "column", data_type AS type, comment
FROM duckdb_columns()
WHERE NOT internal AND database_name IN (current_database(), 'temp') AND table_name NOT IN {_LEFT_OUT}"""
_TABLES = f"""
SELECT "table", sum(rows)::BIGINT AS rows, nullif(count(partition), 0) AS files,
       CASE WHEN "table" IN {tuple(TABLES)} THEN NULL ELSE 'view' END AS kind
FROM (SELECT DISTINCT "table" FROM ({_COLUMNS})) LEFT JOIN partitions ON table_name = "table"
GROUP BY "table" ORDER BY kind NULLS FIRST, "table"
"""
