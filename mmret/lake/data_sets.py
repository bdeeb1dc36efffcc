"""The Lance data set behind a LanceDB table, for upkeep that LanceDB does not offer: merging files, dropping versions.

LanceDB's own ``to_lance`` takes a path as part of an address, so a folder with ``?`` in its name is not found. Costs an open.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmret.storage import is_object_address
from mmret.storage.addresses import object_address


def data_set(table: Any) -> Any:
    """The newest version of LanceDB table ``table`` as a ``lance.LanceDataset``, whatever signs its path has."""
    import lance

    if is_object_address(table.uri):
        from mmret.storage.options import lance_options

        return lance.dataset(table.uri, storage_options=lance_options(object_address(table.uri)))
    return lance.dataset(Path(table.uri).as_uri())
