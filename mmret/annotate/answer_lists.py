"""Reads a list of texts that a model wrote without JSON: bullets and numbers of every kind, headings, tags, tables, one line.

A list is what bears one kind of mark, item after item; what stands around it (a lead-in, explanations below an item, a closing
word) is none of it. Nothing is cut in the middle of a text. Linear in the length; costs some 50 us an answer, and is reached only
where an answer is no JSON.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

MOST_PLAIN_LINES = 12
"""Lines without any marks are a list where there are no more of them than this, each short."""
_LONGEST_PLAIN = 200
_TAGGED = re.compile(
    r"<(li|item|instruction|query|text|option|entry|q|p|instruction_?\d{1,2}|query_?\d{1,2}|\d{1,2})>\s*(.{0,600}?)\s*</\1>",
    re.DOTALL | re.I,
)
_WORD = r"(?:(?:search[ _]?)?(?:instruction|query|text|option|item|step|variant|version|search|example|q)s?[ _]*)"
_ORDINAL = "first second third fourth fifth sixth seventh eighth ninth tenth 1st 2nd 3rd 4th 5th".replace(" ", "|")
_NUMBERS = (
    r"[(\[]?\d{1,2}\s*(?:[.)\]:、．）】]+(?!\d)|\s[-–—]\s)\s*",  # 1.  2)  [3]  4、  5 -
    r"#\d{1,2}[:.)]?\s+",
    r"\d\ufe0f?\u20e3\s*|[①-⑳❶-❿➀-➓]\s*",
    r"\d{1,2}[,;\t]\s*(?=\D)",  # cells of a row
)
_MARKS = (
    (
        "word",
        re.compile(
            rf"(?:#+ *)?\**(?:{_WORD}#?\d{{1,2}}|(?:{_ORDINAL})(?: {_WORD})?)"
            r"(?:\s*[-–—:.)]+\**|\**\s*\Z|\**(?=\s*[:-]))\s*[:-]?\s*",
            re.I,
        ),
    ),
    ("number", re.compile("|".join(_NUMBERS))),
    ("roman", re.compile(r"\(?[ivxIVX]{1,4}[.)]\s+")),
    ("letter", re.compile(r"\(?[A-Za-z][.)]\s+")),
    ("bullet", re.compile(r"[-*+•·–—−▪‣◦●○■□➤➢►▶→⇒»✓✔✅☑👉🔹🔸⭐]\ufe0f?\s*(?![-*])(?=\S)|o\s+")),
)
"""Kinds of marks, the surest first."""
_INLINE = re.compile(r"(?:(?<=\s)|(?<=[;,.])|\A)[(\[]?(\d{1,2})[.)\]]\s*(?=\D)")
_QUOTED = re.compile(r"\"([^\"\n]{1,600})\"|“([^“”\n]{1,600})”|«([^«»\n]{1,600})»|「([^「」\n]{1,600})」|`([^`\n]{1,600})`")
_BETWEEN_QUOTES = re.compile(r"[\s,;，、|/()\[\]{}【】.]*(?:and|or)?[\s,;，、|/()\[\]{}【】.]*", re.I)
_CHAT = re.compile(
    r"(?:sure|certainly|of course|okay|ok|here (?:are|is)|these|the following|below|let me|i |i['’]|we |note|feel free|hope"
    r"|as an?\b)",
    re.I,
)


def listed(text: str) -> list[str] | None:
    """The items of a list in ``text``, marks taken off; None where there is no list of two or more.

    >>> listed("Here you are:\\n① make it blue\\n② a blue one")
    ['make it blue', 'a blue one']
    """
    readers: tuple[Callable[[str], list[str]], ...] = (_tagged, _table, _marked, _in_one_line, _quoted, _plain_lines)
    return next((found for read in readers if len(found := read(text)) > 1), None)


def _tagged(text: str) -> list[str]:
    return [inner for _, inner in _TAGGED.findall(text) if "<" not in inner]


def _table(text: str) -> list[str]:
    """The wordiest column of a table drawn with bars."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines() if line.count("|") > 1]
    rule = next((n for n, row in enumerate(rows) if n and all(cell and set(cell) <= set("-: ") for cell in row)), None)
    if rule is None:
        return []
    body = [row for row in rows[rule + 1 :] if len(row) == len(rows[rule])]
    columns = list(zip(*body, strict=True))
    return list(max(columns, key=lambda column: sum(map(len, column)))) if columns else []


def _marked(text: str) -> list[str]:
    """What stands behind the commonest mark of the lines that are indented least; behind a heading that is alone, the next line."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    kinds = [_mark(line.strip()) for line in lines]
    counts = Counter(kind for kind, _ in kinds if kind)
    for kind in sorted(counts, key=lambda k: (-counts[k], k)):
        if counts[kind] < 2:
            continue
        margin = min(_indent(line) for line, (k, _) in zip(lines, kinds, strict=True) if k == kind)
        first = next(n for n, (k, _) in enumerate(kinds) if k == kind)
        outer = next((k for k, _ in kinds[:first][::-1] if k and counts[k] > 1), None)
        if outer and _indent(lines[first]) > _indent(lines[first - 1]):
            kind, margin = outer, 0
        found: list[str] = []
        for n, (line, (own, rest)) in enumerate(zip(lines, kinds, strict=True)):
            if own != kind or _indent(line) > margin + 1:
                continue
            if not rest.strip(" *:") and n + 1 < len(lines) and kinds[n + 1][0] != kind:
                rest = kinds[n + 1][1] or lines[n + 1]
            found.append(rest)
        return [item for item in found if item.strip(" *:")]
    return []


def _mark(line: str) -> tuple[str, str]:
    """The kind of mark that ``line`` begins with, "" for none, and what stands behind it."""
    bare = re.sub(r"^(?:>\s*|\*\*(?=\(?\d))+", "", line)
    for kind, pattern in _MARKS:
        if found := pattern.match(bare):
            return kind, bare[found.end() :]
    return "", line


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _in_one_line(text: str) -> list[str]:
    """Numbers 1, 2, 3 within a line, or texts with semicolons or bars between them."""
    for line in text.splitlines():
        marks = [m for m in _INLINE.finditer(line)]
        if len(marks) > 1 and [int(m[1]) for m in marks] == list(range(1, len(marks) + 1)):
            ends = [m.start() for m in marks[1:]] + [len(line)]
            return [line[m.end() : end].strip(" ;,") for m, end in zip(marks, ends, strict=True)]
    line = text.strip().rpartition(":\n")[2].strip()
    for sign in (";", "；", " | ", " || "):
        parts = [part.strip() for part in line.split(sign)]
        if "\n" not in line and len(parts) > 2 and all(len(part.split()) > 1 or not part.isascii() for part in parts if part):
            return [part for part in parts if part]
    return []


def _quoted(text: str) -> list[str]:
    """Quoted texts with nothing but commas, line breaks and brackets between them."""
    marks = list(_QUOTED.finditer(text))
    between = zip(marks, marks[1:], strict=False)
    if len(marks) < 2 or not all(_BETWEEN_QUOTES.fullmatch(text[a.end() : b.start()]) for a, b in between):
        return []
    return [next(filter(None, m.groups())) for m in marks]


def _plain_lines(text: str) -> list[str]:
    """Lines without marks: a few short ones that speak to nobody, and are no sentences where no lead-in announces them."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    announced = len(lines) > 2 and lines[0].endswith((":", "："))
    lines = lines[announced:]
    if len(lines) > 2 and _CHAT.match(lines[-1]):
        lines = lines[:-1]
    ends = (":", "：", "?") if announced else (":", "：", "?", ".", "!", "。")
    odd = any(len(li) > _LONGEST_PLAIN or li.endswith(ends) or ": " in li or li[0] in "[{<|#" or _CHAT.match(li) for li in lines)
    return [] if odd or len(lines) > MOST_PLAIN_LINES else lines
