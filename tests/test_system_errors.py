"""The system's refusals are one sentence that says what to do; faults of the code are not taken for them."""

import errno
import sqlite3

import duckdb
import pytest

from mmret.storage.refusals import unreachable
from mmret.system_errors import explain, explain_text, may_pass


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
        (RuntimeError("basic_ios::clear: iostream error"), "disk is full"),
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


S3 = "LanceError(IO): Generic S3 error: Error performing PUT http://10.0.0.5:8333/b/x in 1ms"


@pytest.mark.parametrize(
    ("words", "said", "passes"),
    [
        (f"{S3} - Server returned non-2xx status code: 403 Forbidden: <Code>SignatureDoesNotMatch</Code>", "credentials", False),
        (f"{S3} - Server returned non-2xx status code: 404 Not Found: <Code>NoSuchBucket</Code>", "no such bucket", False),
        (f"{S3}, after 10 retries - HTTP error: error sending request", "cannot be reached", True),
        ('Failed to connect to namespace: IO { source: Generic { store: "S3", inner: ConnectError("tcp connect error") } }',
         "cannot be reached", True),
    ],
)  # fmt: skip
def test_what_an_object_store_refused_is_told_also_by_lance_and_only_an_absent_server_is_asked_again(words, said, passes):
    for error in (RuntimeError(words), OSError(words), ValueError(words)):
        assert said in explain(error) and may_pass(error) is passes
        assert explain(error) == explain_text(f"{type(error).__name__}: {words}")
    wrapped = RuntimeError("a stage's own words")
    wrapped.__cause__ = ValueError(words)
    assert said in explain(wrapped) and may_pass(wrapped) is passes


def test_a_store_that_cannot_be_reached_is_named_also_in_words_of_another_process():
    error = unreachable("s3://bucket/lake", "Generic S3 error: error sending request")
    assert explain(error) == str(error) == explain_text(f"mmret.storage.refusals.StorageUnreachable: {error}\nStack trace: ...")
    assert str(error).startswith("s3://bucket/lake cannot be reached") and may_pass(error)


def test_errors_of_local_files_are_not_taken_for_an_object_store_s():
    for words in ("Generic LocalFileSystem error: PermissionDenied, lance-io/src/object_store.rs:1", "403 Forbidden", "Anonymous"):
        assert explain_text(words) is None and not may_pass(ValueError(words))
