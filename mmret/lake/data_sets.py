"""The Lance data set behind a LanceDB table, for upkeep that LanceDB does not offer: merging files, dropping versions.

LanceDB's own ``to_lance`` takes a path as part of an address, so a folder with ``?`` in its name is not found. Costs an open.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mmret.storage import is_object_address
from mmret.storage.addresses import object_address


def data_set(table: Any) -> Any:
    """The newest version of LanceDB table ``table`` as a ``lance.LanceDataset``, whatever signs its path has."""
    import lance

    if is_object_address(table.uri):
        from mmret.storage.options import lance_options

        address = object_address(unquote(table.uri))  # it writes blanks and letters beyond ASCII as in a URL
        return lance.dataset(str(address), storage_options=lance_options(address))
    return lance.dataset(Path(table.uri).as_uri())


@contextmanager
def suppress_conflicts() -> Iterator[None]:
    """Upkeep inside the block gives way to a writer that committed first: Lance undoes it, and it is done the next time."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if "commit conflict" not in str(error).lower():
            raise
