"""Markdown and HTML of cards, in which no text of the corpus can be anything but text.

A caption, a path or a licence comes from outside. :func:`plain` escapes whatever Markdown, GitHub's dialect or HTML could read as
markup; the HTML card is the Markdown rendered with raw HTML switched off, so there is one place to get right.
"""

from __future__ import annotations

import base64
import html
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

_MARKUP = re.compile(r"[\\`*_{}\[\]()#+!|~:/@$^=\"'-]")
_NUMBER = re.compile(r"(-?[\d,]+(\.\d+)?)?")
_WWW = re.compile(r"(?i)(www)\.")
_BIDI = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
body { font: 16px/1.55 system-ui, "Noto Sans", sans-serif; color: #1d2329; max-width: 60rem;
  margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin-bottom: .4rem; }
h2 { font-size: 1.25rem; margin-top: 2.4rem; border-bottom: 1px solid #d8dee4; padding-bottom: .3rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .93rem; }
th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid #e4e8ec; vertical-align: middle; }
td { overflow-wrap: anywhere; }
td:first-child code { white-space: nowrap; }
th { font-weight: 600; color: #57606a; white-space: nowrap; }
td img { display: block; max-width: 7rem; max-height: 7rem; border-radius: 4px; border: 1px solid #e4e8ec; background: #fff; }
p img { max-width: 100%; }
code, pre { font: .88rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace; background: #f4f6f8; border-radius: 4px; }
code { padding: .1rem .3rem; } pre { padding: .8rem 1rem; overflow-x: auto; } pre code { padding: 0; }
"""


def plain(text: Any, limit: int = 300) -> str:
    """``text`` as Markdown that shows it as it is, on one line, cut at ``limit`` characters."""
    line = " ".join("".join(_visible(c) for c in ("" if text is None else str(text))).split())
    if len(line) > limit:
        line = line[: limit - 1].rstrip() + "…"
    escaped = _MARKUP.sub(lambda found: "\\" + found[0], line)
    escaped = _WWW.sub(r"\1\.", escaped)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _visible(character: str) -> str:
    if character in "\n\r\t\x0b\x0c\x85\u2028\u2029":
        return " "
    return "\N{REPLACEMENT CHARACTER}" if unicodedata.category(character) == "Cc" or character in _BIDI else character


def code(text: Any) -> str:
    """``text`` as a code span; backquotes inside cannot end it."""
    line = " ".join("".join(_visible(c) for c in str(text)).split())
    runs = [len(run) for run in re.findall(r"`+", line)]
    fence = "`" * (max(runs, default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|")


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already, numbers to the right; empty where there are no rows."""
    if not rows:
        return ""
    numeric = [all(_NUMBER.fullmatch(row[at]) for row in rows) for at in range(len(headers))]
    lines = [headers, ["---:" if right else "---" for right in numeric], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def picture(name: str, alt: Any) -> str:
    """An image of the card's own folder, which is named after the card: in Markdown its address is a URL."""
    return f"![{plain(alt, 120)}]({_url(name)})"


def _url(name: str) -> str:
    return quote(os.fsencode(name))


def to_html(text: str, title: str, pictures: Mapping[str, bytes]) -> str:
    """One self-contained page: ``pictures`` (PNG or JPEG, by the name given to :func:`picture`) become data URIs."""
    from markdown_it import MarkdownIt

    pictures = {_url(name): data for name, data in pictures.items()}

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.validateLink = lambda url: url in pictures or url.startswith("https://")
    tokens = reader.parse(text)
    for token in (child for t in tokens for child in (t.children or []) if child.type == "image"):
        data = pictures[str(token.attrs["src"])]
        kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
        token.attrs["src"] = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    body = reader.renderer.render(tokens, reader.options, {})
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body>\n{body}</body></html>\n"
    )
