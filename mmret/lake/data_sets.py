"""The Lance data set behind a LanceDB table, for upkeep that LanceDB does not offer: merging files, dropping versions.

LanceDB's own ``to_lance`` takes a path as part of an address, so a folder with ``?`` in its name is not found. Costs an open.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def data_set(table: Any) -> Any:
    """The newest version of LanceDB table ``table`` as a ``lance.LanceDataset``, whatever signs its path has."""
    import lance

    return lance.dataset(Path(table.uri).as_uri())


def data_folder(table: Any) -> Path:
    """The folder of the table's data files, those of old versions included."""
    return Path(table.uri) / "data"
