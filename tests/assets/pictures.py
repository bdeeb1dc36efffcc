"""A source a person could have: a folder of pictures, each with its caption beside it."""

from pathlib import Path

from mmret.ingest.sources import ShapesSource


def drop(folder: Path, first: int, last: int) -> None:
    """Put scenes ``first`` to ``last`` (exclusive) into ``folder``: the pictures first, then the captions."""
    source = ShapesSource(f"shapes:{last}?seed=3")
    rows = list(source.rows())[first:]
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        (folder / Path(row.path).name).write_bytes(source.open(row.path)[0].read())
        (folder / Path(row.path).with_suffix(".txt").name).write_text(row.caption)
