"""Who may import whom: no circles, no Dagster in the library, packages in one order. Imports inside functions count.

An import hides in a function when it would be a circle otherwise, so those are where circles hide. Only what stands under
``if TYPE_CHECKING:`` is left out: it is never executed.
"""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.conftest import CHECKOUT

ROOTS = ("mmret", "assets", "resources")
DOOR = "mmret.cli.graph"
"""The one module of the library through which commands start the lineage graph."""

ORDER = """
    errors paths atomic storage system_errors interrupts schemas tasks hashing pace progress progress_reports
    memory threads devices optimizer unit_vectors quantise ranking public_addresses ray_cluster settings
    lake curation
    ingest encode mine towers leaks score
    annotate captions assemble filters
    retriever forget
    search benchmarks studies
    stage_declaration stage_settings stages freshness
    warehouse export
    web serve
    cli __main__
""".split()
"""The packages and modules of ``mmret``, lowest first: each imports only what stands before it. A new one gets its place here."""


def name_of(path: Path) -> str:
    parts = path.relative_to(CHECKOUT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for root in ROOTS for path in sorted((CHECKOUT / root).rglob("*.py"))}


def executed(node: ast.AST):
    """Every node below ``node`` but those under ``if TYPE_CHECKING:``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and getattr(child.test, "id", getattr(child.test, "attr", "")) == "TYPE_CHECKING":
            for other in child.orelse:
                yield other
                yield from executed(other)
            continue
        yield child
        yield from executed(child)


def imports(tree: ast.AST, module: str, package: bool) -> set[str]:
    """Full names of what ``tree``, the source of ``module``, imports: ``from a import b`` is ``a.b`` where that is a module."""
    found = set()
    for node in executed(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")
            start = parents[: len(parents) - node.level + package] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            found |= {name if (name := f"{base}.{alias.name}") in MODULES else base for alias in node.names}
    return found - {module}


@cache
def graph() -> dict[str, set[str]]:
    """Module to what it imports, ours and others'."""
    return {n: imports(ast.parse(p.read_text()), n, p.name == "__init__.py") for n, p in MODULES.items()}


def path_between(start: str, is_end, edges: dict[str, set[str]]) -> list[str] | None:
    """The shortest way along ``edges`` from ``start`` to a module that ``is_end``, or None."""
    ways, seen = [[start]], {start}
    for way in ways:  # grows as it is read: breadth first
        for target in sorted(edges.get(way[-1], ())):
            if is_end(target):
                return [*way, target]
            if target not in seen:
                seen.add(target)
                ways.append([*way, target])
    return None


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The shortest circle through each module that lies on one, each circle once."""
    found: dict[frozenset[str], list[str]] = {}
    for module in edges:
        if circle := path_between(module, lambda target, module=module: target == module, edges):
            found.setdefault(frozenset(circle), circle)
    return sorted(found.values(), key=len)


def package_of(module: str) -> str | None:
    """``lake`` of ``mmret.lake.store``; None of ``mmret`` itself, which only hands out ``Retriever``, and of what is not ours."""
    parts = module.split(".")
    return parts[1] if parts[0] == "mmret" and len(parts) > 1 else None


def listed(lines) -> str:
    return "\n  " + "\n  ".join(lines)


def test_the_reading_of_imports_finds_those_in_functions_and_not_those_for_type_checkers():
    source = """
import os.path
from mmret import atomic
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from mmret.cli import run
else:
    import json
def f():
    from mmret.lake.store import Lake
    from . import compact
    from .store import Facts
    from ..errors import UserError
"""
    found = imports(ast.parse(source), "mmret.lake.history", package=False)
    ours = {"mmret.atomic", "mmret.lake.store", "mmret.lake.compact", "mmret.errors"}
    assert found == {"os.path", "typing", "json"} | ours
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}) == [["a", "b", "c", "a"]]


def test_no_circle_of_imports():
    found = circles(graph())
    assert not found, f"{len(found)} circles:{listed(' > '.join(circle) for circle in found)}"


def test_each_package_of_the_library_imports_only_what_stands_before_it_in_the_order():
    place = {package: n for n, package in enumerate(ORDER)}
    packages = {p for module in MODULES if (p := package_of(module))}
    assert packages <= set(ORDER), f"without a place in ORDER: {sorted(packages - set(ORDER))}"
    wrong = [
        f"{module} imports {target}"
        for module, targets in graph().items()
        for target in sorted(targets)
        if (a := package_of(module)) and (b := package_of(target)) and a != b and place[b] > place[a]
    ]
    assert not wrong, f"{len(wrong)} imports against the order:{listed(wrong)}"


def test_the_library_reaches_dagster_by_no_way_but_the_door():
    inside = {module: targets for module, targets in graph().items() if module.split(".")[0] == "mmret" and module != DOOR}
    for module in inside:
        way = path_between(module, lambda target: target.split(".")[0] in ("dagster", "assets", "resources"), inside)
        assert way is None, f"{' > '.join(way)}: the library starts the graph through {DOOR} alone"
    assert any(target.startswith("assets.") for target in graph()[DOOR])


def test_the_command_starts_without_dagster_and_without_a_model_library():
    code = "import sys, mmret.cli, mmret.cli.graph; print({'dagster', 'torch', 'assets'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT, check=True)
    assert out.stdout.strip() == "set()"


def test_dagster_s_private_modules_are_imported_in_one_place_only():
    private = [
        f"{module} imports {target}"
        for module, targets in graph().items()
        for target in sorted(targets)
        if any(part.startswith("_") for part in target.split(".")[1:]) and target.split(".")[0].startswith("dagster")
    ]
    outside = [line for line in private if not line.startswith("assets.dagster_internals")]
    assert not outside, f"belongs into assets/dagster_internals/:{listed(outside)}"
