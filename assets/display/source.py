"""Links from an asset in the UI to its source lines: the asset's function, and the functions of a ``stage.py`` that it calls.

Costs some milliseconds as definitions load: the sources are parsed, and nothing is imported.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg

from assets.display.installation import FILE, Source

CHECKOUT = FILE.parents[1]


@cache
def _lines(file: Path) -> dict[str, int]:
    """Line of every function of a file, by name."""
    return {node.name: node.lineno for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}


def _computing(function: Callable[..., Any]) -> Iterator[tuple[Path, str, int]]:
    """File, name and line of each function that ``function`` imports from a ``stage.py`` of the library, in its own order."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmret.") and node.module.endswith(".stage"):
            file = CHECKOUT.joinpath(*node.module.split(".")).with_suffix(".py")
            for name in (alias.name for alias in node.names):
                if name in _lines(file):
                    yield file, name, _lines(file)[name]


def code_references(function: Callable[..., Any]) -> dg.CodeReferencesMetadataValue:
    """The asset function and what computes it, as files of this checkout."""
    own = Path(inspect.getsourcefile(function)).resolve()
    places = [(own, function.__name__, inspect.getsourcelines(function)[1]), *_computing(function)]
    return dg.CodeReferencesMetadataValue(
        code_references=[
            dg.LocalFileCodeReference(file_path=str(file), line_number=line, label=f"{name} in {file.relative_to(CHECKOUT)}")
            for file, name, line in places
        ]
    )


def linked(assets: dg.AssetsDefinition, source: Source) -> dg.AssetsDefinition:
    """``assets`` with its code references leading to the repository of ``source``, where that has a url."""
    if source.url is None:
        return assets
    (found,) = dg.link_code_references_to_git(
        [assets],
        git_url=source.url.rstrip("/"),
        git_branch=source.branch,
        platform=source.platform,
        file_path_mapping=dg.AnchorBasedFilePathMapping(
            local_file_anchor=FILE, file_anchor_path_in_repository=str(FILE.relative_to(CHECKOUT))
        ),
    )
    return found
