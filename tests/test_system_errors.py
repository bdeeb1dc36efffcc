"""The system's refusals are one sentence that says what to do; faults of the code are not taken for them."""

import errno
import sqlite3

import duckdb
import pytest

from mmret.system_errors import explain, explain_text


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "disk is full"), (errno.EDQUOT, "quota"), (errno.EROFS, "read-only"), (errno.EACCES, "permission denied"),
        (errno.EMFILE, "ulimit -n"), (errno.ENAMETOOLONG, "too long"), (errno.ENOTDIR, "file stands where a folder"),
        (errno.EISDIR, "folder stands where a file"), (errno.EIO, "input/output"), (errno.ESTALE, "network"),
        (errno.ENOMEM, "memory"),
    ],
)  # fmt: skip
def test_an_error_number_is_told_with_its_file_whoever_wrapped_it(number, said):
    error = OSError(number, "words", "lake/pairs/x.parquet")
    assert explain(error).startswith("lake/pairs/x.parquet: ") and said in explain(error)
    wrapped = RuntimeError("a library's own words")
    wrapped.__cause__ = error
    assert explain(wrapped) == explain(error) == explain(ExceptionGroup("several", [ValueError("x"), wrapped]))
    assert "\n" not in explain(OSError(number, "words", "two\nlines \udcff"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("lance error: LanceError(IO): No space left on device (os error 28), /rust/x.rs:1"), "disk is full"),
        (
            RuntimeError("[enforce fail at inline_container.cc:659] . PytorchStreamWriter failed writing file data/1"),
            "disk is full",
        ),
        (sqlite3.OperationalError("database or disk is full"), "disk is full"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "read-only"),
        (sqlite3.DatabaseError("file is not a database"), ".dagster"),
        (duckdb.OutOfMemoryException("Out of Memory Error: failed to allocate data of size 1.0 GiB"), "out of memory"),
        (MemoryError(), "out of memory"),
    ],
)
def test_a_refusal_is_known_by_its_words_where_it_has_no_number(error, said):
    assert said in explain(error)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        ValueError("no such column"),
        FileNotFoundError("no number, no name"),
        AssertionError("exists"),
        OSError("odd"),
    ],
)
def test_a_fault_of_the_code_is_no_refusal_of_the_system(error):
    assert explain(error) is None and explain_text(str(error)) is None
