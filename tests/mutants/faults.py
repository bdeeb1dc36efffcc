"""One-line faults that a careful tester would plant, in every statement of a file: mutmut's operators and a few of our own.

mutmut's own runner cannot be had here: it leaves out every decorated function (assets, checks, settings, commands) and all that
stands outside functions. Its operators can: each is a function from a node of libcst's tree to other nodes. Costs 50 ms a file.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation import mutators

SAID = re.compile(r"^(print|echo|warn|warning|info|debug|error|exception|log|note|say|report_progress|set_description|add_note)$")
"""Calls whose arguments a person reads and no code does."""

NAME = re.compile(r"^['\"][A-Za-z_][\w./-]*['\"]$")
"""A string that names something: a column, a key, a file. Others are words for people."""

SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list", "minimum": "maximum", "maximum": "minimum"}
SWAPPED |= {"floor": "ceil", "ceil": "floor", "argmax": "argmin", "argmin": "argmax", "insert": "append", "intersection": "union"}


@dataclass(frozen=True)
class Fault:
    statement: "Statement"
    before: str
    after: str
    source: str
    """The whole file with the fault in it."""

    @property
    def name(self) -> str:
        """The same as long as the statement is the same, wherever it moves in its file."""
        return f"{self.statement.path}: {self.before} => {self.after}"


@dataclass(frozen=True, eq=False)
class Statement:
    path: str
    """Of the file, from the root of the checkout."""
    lines: tuple[int, int]
    """First and last line, from 1; of what has a body, its head. What has not run on one of these has not run."""
    once: bool
    """Whether it runs once, when the module is imported: it stands outside every function, or is a default in a signature."""
    module: cst.Module
    swaps: list[tuple[cst.CSTNode, cst.CSTNode]]
    """A node of the module and what stands in its place, for each fault."""

    def faults(self, random: Random) -> Iterator[Fault]:
        """Its faults in random order, without those that do not compile or change nothing."""
        source = self.module.code
        for node, other in random.sample(self.swaps, len(self.swaps)):
            mutated = self.module.deep_replace(node, other).code
            try:
                compile(mutated, self.path, "exec")
            except SyntaxError:
                continue
            if mutated != source:
                yield Fault(self, *difference(source, mutated), mutated)


def difference(source: str, mutated: str) -> tuple[str, str]:
    """The lines in which two texts differ, each side in one line."""
    old, new = source.splitlines(), mutated.splitlines()
    first = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)) - 1)
    tail = next((i for i, (a, b) in enumerate(zip(old[::-1], new[::-1], strict=False)) if a != b), 0)
    tail = min(tail, len(old) - first - 1, len(new) - first - 1)
    before, after = (" ".join(line.strip() for line in text[first : len(text) - tail]) for text in (old, new))
    return before, after


def own_operators(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """Swapped neighbours, dropped conditions, calls and refusals, the other of two: what mutmut lacks."""
    if isinstance(node, cst.Call):
        plain = [i for i, arg in enumerate(node.args) if arg.keyword is None and not arg.star]
        for i, j in zip(plain, plain[1:], strict=False):
            if not node.args[i].value.deep_equals(node.args[j].value):
                args = list(node.args)
                args[i], args[j] = args[i].with_changes(value=args[j].value), args[j].with_changes(value=args[i].value)
                yield node.with_changes(args=args)
        called = node.func.attr if isinstance(node.func, cst.Attribute) else node.func
        if isinstance(called, cst.Name) and called.value in SWAPPED and not (called.value == "sorted" and len(node.args) != 1):
            yield node.with_deep_changes(called, value=SWAPPED[called.value])
    elif isinstance(node, cst.BooleanOperation):
        yield node.left
        yield node.right
    elif isinstance(node, cst.If | cst.While) and not m.matches(node.test, m.Name("TYPE_CHECKING")):
        yield node.with_changes(test=cst.Name("False"))
        if isinstance(node, cst.If):
            yield node.with_changes(test=cst.Name("True"))
    elif isinstance(node, cst.CompFor):
        for i in range(len(node.ifs)):
            yield node.with_changes(ifs=[*node.ifs[:i], *node.ifs[i + 1 :]])
    elif isinstance(node, cst.Expr) and isinstance(node.value, cst.Call | cst.Await):
        yield cst.Pass()
    elif isinstance(node, cst.Raise | cst.Continue):
        yield cst.Pass()
    elif isinstance(node, cst.Index) and m.matches(node.value, m.Integer("0")):
        yield node.with_changes(value=cst.parse_expression("-1"))
    elif isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Minus):
        yield node.expression


DROPPED = {mutators.operator_assignment, mutators.operator_lambda, mutators.operator_dict_arguments}
"""Faults that no one would plant, because the next line falls over them."""


def is_ignored_setting(call: cst.Call, other: cst.Call) -> bool:
    """Whether ``other`` lacks a keyword of ``call`` or what comes last. Without another argument, or with None, it falls over."""
    if len(other.args) == len(call.args):
        return False
    left = next((i for i, (a, b) in enumerate(zip(call.args, other.args, strict=False)) if a is not b), len(other.args))
    return left == len(call.args) - 1 or call.args[left].keyword is not None


def outcomes(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    for kind, operator in mutators.mutation_operators:
        if not isinstance(node, kind) or operator in DROPPED:
            continue
        if operator is mutators.operator_string:
            if isinstance(node, cst.SimpleString) and NAME.match(node.value):
                yield next(iter(operator(node)))
            continue
        for other in operator(node):
            if operator is not mutators.operator_arg_removal or is_ignored_setting(node, other):
                yield other
    yield from own_operators(node)


def is_said(node: cst.CSTNode) -> bool:
    """Whether no code reads what stands below ``node``: docstrings, messages, the words of an error, how a dataclass is frozen."""
    if isinstance(node, cst.Expr):
        return isinstance(node.value, cst.BaseString)
    if isinstance(node, cst.Call):
        called = node.func.attr if isinstance(node.func, cst.Attribute) else node.func
        return isinstance(called, cst.Name) and bool(SAID.match(called.value))
    if isinstance(node, cst.Decorator):
        return m.matches(node.decorator, m.Call(func=m.Name("dataclass") | m.Name("cache") | m.Name("lru_cache")))
    return isinstance(node, cst.Raise | cst.Annotation | cst.Import | cst.ImportFrom)


def statements(path: Path, root: Path) -> list[Statement]:
    """Every statement of the file that a fault can be planted in, in order.

    Args:
        path: A Python file below ``root``.
        root: The checkout.
    """
    wrapper = MetadataWrapper(cst.parse_module(path.read_text(encoding="utf-8")), unsafe_skip_copy=True)
    positions, module = wrapper.resolve(PositionProvider), wrapper.module
    found: dict[tuple[tuple[int, int], bool], Statement] = {}

    def span(node: cst.CSTNode) -> tuple[int, int]:
        start, end = positions[node].start.line, positions[node].end.line
        body = getattr(node, "body", None)
        if isinstance(body, cst.IndentedBlock):
            end = max(start, positions[body].start.line - 1)
        return start, end

    def visit(node: cst.CSTNode, lines: tuple[int, int], once: bool) -> None:
        if isinstance(node, cst.BaseCompoundStatement | cst.SimpleStatementLine):
            lines = span(node)
        for other in outcomes(node):
            statement = found.setdefault((lines, once), Statement(path.relative_to(root).as_posix(), lines, once, module, []))
            statement.swaps.append((node, other))
        if not is_said(node):
            for child in node.children:
                visit(child, lines, once and not (isinstance(node, cst.FunctionDef) and child is node.body))

    visit(module, (1, 1), True)
    return [found[key] for key in sorted(found)]
