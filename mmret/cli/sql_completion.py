"""What the word at the cursor of an SQL text may become: a table, a column of the tables that are named, a keyword, a function.

Reading the words of a lake takes some 20 ms, once each time it is opened; a completion well below one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

_PLAIN_NAME = "^[a-z][a-z0-9_]*$"
_MORE_KEYWORDS = "by describe exclude explain filter ilike over partition replace summarize values".split()
_BEFORE_TABLES = {"from", "join", "describe", "summarize", "table", "show"}
_NAMED_TABLE = re.compile(r'\b(?:from|join)\s+"?(\w+)"?(?=(?:\s+(?:as\s+)?(\w+))?)', re.I)
COMMANDS = (".help", ".quit", ".schema", ".tables", ".wide")
"""Commands of the shell that are no SQL."""


@dataclass(frozen=True)
class Words:
    """All that can be named: tables with their columns, keywords in lower case, functions."""

    tables: dict[str, tuple[str, ...]]
    keywords: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()


def read_words(connection: Any) -> Words:
    """The words of the current database of a DuckDB ``connection``."""
    columns = connection.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND database_name IN (current_database(), 'temp') "
        "AND table_name <> 'made' ORDER BY table_name, column_index"
    ).fetchall()
    tables: dict[str, list[str]] = {}
    for table, column in columns:
        tables.setdefault(table, []).append(column)
    keywords = connection.execute(
        "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category IN ('reserved', 'type_function')"
    ).fetchall()
    functions = connection.execute(
        "SELECT DISTINCT function_name FROM duckdb_functions() WHERE regexp_matches(function_name, ?)", [_PLAIN_NAME]
    ).fetchall()
    return Words(
        {table: tuple(found) for table, found in tables.items()},
        tuple(sorted({*(word for (word,) in keywords), *_MORE_KEYWORDS})),
        tuple(sorted(name for (name,) in functions)),
    )


def complete(before: str, after: str, words: Words) -> tuple[str, list[tuple[str, str]]]:
    """The word that ends at the cursor, between the texts ``before`` and ``after``, and what it may become, each with its kind, the
    likeliest first.

    >>> complete("SELECT t.spl", " FROM triplets t", words)
    ('spl', [('split', 'column of triplets')])
    """
    if before.lstrip().startswith("."):
        return _command(before.lstrip(), words)
    word = re.search(r"\w*$", before).group()  # type: ignore[union-attr]
    ahead = before[: len(before) - len(word)]
    if _inside_text(ahead):
        return word, []
    named = _tables_named(before + after, words)
    if qualifier := re.search(r'"?(\w+)"?\.$', ahead):
        table = named.get(qualifier[1].lower(), qualifier[1])
        return word, _fitting(word, [(column, f"column of {table}") for column in words.tables.get(table, ())])
    tables = [(table, "table") for table in words.tables]
    last = re.findall(r"\w+|[^\s\w]", ahead)[-1:]
    if last and last[0].lower() in _BEFORE_TABLES:
        return word, _fitting(word, tables)
    columns = [(c, f"column of {t}") for t in dict.fromkeys(named.values()) or words.tables for c in words.tables[t]]
    upper = word.isupper() or not word
    keywords = [(k.upper() if upper else k, "keyword") for k in words.keywords]
    functions = [(f"{name}(", "function") for name in words.functions] if word else []
    return word, _fitting(word, [*columns, *tables, *keywords, *functions])


def _fitting(word: str, found: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    kinds: dict[str, str] = {}
    for text, kind in found:
        if text.lower().startswith(word.lower()):
            kinds.setdefault(text, kind)
    return list(kinds.items())


def _command(text: str, words: Words) -> tuple[str, list[tuple[str, str]]]:
    name, space, argument = text.partition(" ")
    if not space:
        return name, _fitting(name, [(command, "command") for command in COMMANDS])
    choices: Sequence[str] = {".schema": tuple(words.tables), ".wide": ("on", "off")}.get(name, ())
    return argument, _fitting(argument, [(choice, "table" if name == ".schema" else "") for choice in choices])


def _inside_text(ahead: str) -> bool:
    """Whether the end of ``ahead`` lies in a string, a quoted name or a comment."""
    try:
        end = len(ahead.encode()) + 1
    except UnicodeEncodeError:
        return True
    return duckdb.tokenize(f"{ahead} x")[-1] != (end, duckdb.token_type.identifier)


def _tables_named(text: str, words: Words) -> dict[str, str]:
    """Tables behind FROM and JOIN, by their own names and by what they are called there, in lower case."""
    found: dict[str, str] = {}
    by_name = {name.lower(): name for name in words.tables}
    for name, alias in _NAMED_TABLE.findall(text):
        if table := by_name.get(name.lower()):
            found[table.lower()] = table
            if alias and alias.lower() not in words.keywords:
                found[alias.lower()] = table
    return found
