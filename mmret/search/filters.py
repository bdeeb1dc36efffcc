"""Filters of a search: a SQL condition over table ``images``, written by somebody at the other end of a network.

The condition is parsed by DuckDB and its tree is walked before it runs: comparisons, arithmetic, casts and the functions of
:data:`FUNCTIONS` pass, everything else (a second query, a table, a setting, a function that makes long texts) is refused. It runs
on a connection in memory that holds the rows of ``images`` without their ``root`` and reads nothing else, one thread, stopped after
:data:`SECONDS`. Cost: the first filter reads the table, 200 bytes and more a picture in memory, by its captions;
each new condition is one scan, 2 to 8 ms for 100,000 pictures; the last conditions are kept.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from mmret.errors import UserError
from mmret.schemas import IMAGES_INDEX

COLUMNS = tuple(name for name in IMAGES_INDEX.names if name != "root")
"""Columns that a condition can name. ``root`` is a place on the server."""
FUNCTIONS = frozenset(
    "+ - * / // % ~~ !~~ ~~* !~~* ~~~ like_escape ilike_escape not_like_escape not_ilike_escape regexp_matches regexp_full_match "
    "-> ->> json_extract json_extract_string json_exists json_contains json_array_length json_keys "
    "lower lcase upper ucase length len strlen contains starts_with ^@ prefix suffix ends_with trim ltrim rtrim substring substr "
    "left right split_part string_split instr strpos position abs round floor ceil ceiling sign least greatest list_contains "
    "array_contains list_has array_has list_extract array_extract list_value array_value".split()
)
"""Functions that a condition can use, operators among them by the names that DuckDB gives them."""
NODES = frozenset("COMPARISON CONJUNCTION CONSTANT COLUMN_REF OPERATOR FUNCTION BETWEEN CAST CASE TYPE".split())
SECONDS = 2.0
LONGEST = 4000
"""Characters of a condition."""
_QUERY = 'SELECT "row" FROM images WHERE (\n{where}\n)'
_KEPT = 64  # conditions whose answers are kept
_USE = "a filter is a condition over images, for example: width > 500 AND caption ILIKE '%red%'"


class ImageFilter:
    """Conditions over the rows of ``images`` that ``read`` returns, in their order; safe for threads.

    >>> ImageFilter(lambda: lake.read("images")).matching("width >= 512 AND licence = 'cc-by-4.0'")  # (n,) bool
    """

    def __init__(self, read: Callable[[], pa.Table]):
        self._read = read
        self._lock, self._keeping = threading.Lock(), threading.Lock()
        self._connection: Any = None
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self.rows = 0

    def matching(self, where: str) -> np.ndarray:
        """Which rows (n,) bool fulfil ``where``. Raises UserError for anything but one condition, and where it takes too long."""
        known = self._known(where)
        if known is not None:
            return known
        with self._lock:  # whose condition is known does not wait for those of others
            known = self._known(where)
            if known is not None:
                return known
            sql = _checked(where)
            if self._connection is None:
                self._open()
            found = np.zeros(self.rows, bool)
            found[self._run(sql)] = True
        with self._keeping:
            self._kept[where] = found
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found

    def _known(self, where: str) -> np.ndarray | None:
        with self._keeping:
            if where in self._kept:
                self._kept.move_to_end(where)
                return self._kept[where]
            return None

    def _open(self) -> None:
        import duckdb

        rows = self._read()
        self.rows = rows.num_rows
        connection = duckdb.connect()
        for setting in (
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "python_enable_replacements = false",
            "threads = 1",
            "memory_limit = '512MB'",
            "temp_directory = ''",
            "enable_external_access = false",
        ):
            connection.execute(f"SET {setting}")
        named = rows.select(list(COLUMNS)).append_column("row", pa.array(np.arange(self.rows)))
        connection.register("images", named)
        connection.execute("SET lock_configuration = true")
        self._connection = connection

    def _run(self, sql: str) -> np.ndarray:
        import duckdb

        stop = threading.Timer(SECONDS, self._connection.interrupt)
        stop.start()
        try:
            return self._connection.execute(sql).fetchnumpy()["row"].astype(np.int64)
        except duckdb.InterruptException:
            raise UserError(f"the filter was stopped after {SECONDS:g} s: ask for less") from None
        except (duckdb.BinderException, duckdb.CatalogException) as error:
            raise UserError(f"the filter cannot be used: {_first_line(error)}; {_USE}") from None
        except duckdb.Error as error:  # its words would quote values of rows
            kind = type(error).__name__.removesuffix("Exception")
            raise UserError(
                f"the filter cannot be computed for every picture ({kind}); TRY_CAST passes over what does not fit"
            ) from None
        finally:
            stop.cancel()


@cache
def _parser() -> Any:
    """A connection that parses: a new one would cost 15 ms."""
    import duckdb

    return duckdb.connect()


def _checked(where: str) -> str:
    """The SELECT of ``where``. Raises UserError where it is not one condition of what is allowed."""
    import duckdb

    if len(where) > LONGEST:
        raise UserError(f"the filter has {len(where):,} characters: {LONGEST:,} at most")
    sql = _QUERY.replace("{where}", where)
    try:
        with _parser().cursor() as connection:
            parsed = json.loads(connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()[0])
    except (duckdb.Error, UnicodeError, RecursionError, ValueError) as error:
        raise UserError(f"the filter cannot be read: {_first_line(error)}; {_USE}") from None
    if parsed.get("error"):
        raise UserError(f"the filter cannot be read: {parsed.get('error_message', 'no SQL')}; {_USE}")
    try:
        where_clause = _only_condition(parsed["statements"])
    except RecursionError:
        raise UserError(f"the filter is nested too deeply; {_USE}") from None
    if where_clause is None:
        raise UserError(f"that is more than one condition; {_USE}")
    for kind, name in _expressions(where_clause):
        if kind not in NODES:
            raise UserError(f"a filter cannot hold a {kind.lower().replace('_', ' ')}; {_USE}")
        if name is not None and name not in FUNCTIONS:
            raise UserError(
                f"a filter cannot use {name}(); it can use {', '.join(sorted(f for f in FUNCTIONS if f.isidentifier()))}"
            )
    return sql


def _only_condition(statements: list[Any]) -> Any:
    """The parsed condition of :data:`_QUERY`, None where anything else of the query is not as it stands there."""
    found = _without_places(statements)
    if len(found) != 1 or set(found[0]) - {"node", "named_param_map"} or found[0].get("named_param_map"):
        return None
    condition = found[0]["node"].pop("where_clause", None)
    return condition if condition is not None and found[0]["node"] == _rest() else None


@cache
def _rest() -> Any:
    """The parsed :data:`_QUERY` without its condition."""
    parsed = _parser().cursor().execute("SELECT json_serialize_sql(?)", [_QUERY.replace("{where}", "true")]).fetchone()[0]
    node = _without_places(json.loads(parsed)["statements"])[0]["node"]
    del node["where_clause"]
    return node


def _without_places(node: Any) -> Any:
    """``node`` without where in the text each part stood."""
    if isinstance(node, list):
        return [_without_places(inner) for inner in node]
    if isinstance(node, dict):
        return {key: _without_places(inner) for key, inner in node.items() if not key.startswith("query_location")}
    return node


def _expressions(node: Any) -> Iterator[tuple[str, str | None]]:
    """Class and, of functions, name of every expression in a parsed tree. A tree too deep to walk is no condition."""
    waiting = [node]
    while waiting:
        here = waiting.pop()
        if isinstance(here, list):
            waiting += here
        elif isinstance(here, dict):
            if "class" in here:
                name = here.get("function_name", "").lower() if here["class"] == "FUNCTION" else None
                yield here["class"], name
            waiting += [value for key, value in here.items() if key != "value"]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
