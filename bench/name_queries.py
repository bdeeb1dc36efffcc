"""Composed queries from names: two pictures of one set whose names differ in one word or one attribute, and a text that says so.

    python bench/name_queries.py CAPTIONS.jsonl [--number 1500] > queries.jsonl       for mmret evaluate --triplets

CAPTIONS.jsonl has ``{"image", "caption"}``, one a line. A set is what stands before the first underscore of a file's name, an
attribute what stands between commas behind a colon, as the Unicode names of icons have it: *woman judge: dark skin tone*. The
wordings are others than the annotator's. Kinds of change, then changes, are drawn evenly by a hash, one query a picture; the
targets of a query are all pictures of that set and name. Costs a second for 8,000 names.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmret.hashing import uniform

_MOST = 60  # names that differ in one place only; more of them say nothing of each other
_PHRASES = {
    "word": ("swap the {old} for a {new}", "a {new} rather than a {old}", "let it be a {new}"),
    "skin": ("turn the skin {new}", "the same person with {new} skin", "give it a {new} skin tone"),
    "attribute": ("rather with {new}", "{new} and not {old}", "turn {old} into {new}"),
}
_SKIN = " skin tone"


def name_queries(pictures: Iterable[tuple[str, str]], number: int = 1500, seed: int = 0) -> list[dict[str, Any]]:
    """``{"reference", "text", "target": [...], "kind"}`` of ``pictures`` (path, name), at most ``number``, by a seeded hash."""
    sets: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path, name in pictures:
        sets[Path(path).name.partition("_")[0]][name].append(path)
    made = []
    for names in sets.values():
        changes = _changes(names)
        for name, options in sorted(changes.items()):
            for reference in names[name]:
                kind = _drawn(sorted({o[0] for o in options}), seed, "kind", reference)
                _, old, new, other = _drawn(sorted(o for o in options if o[0] == kind), seed, "change", reference)
                phrase = _drawn(_PHRASES[kind], seed, "phrase", reference)
                text = phrase.format(old=old.removesuffix(_SKIN), new=new.removesuffix(_SKIN))
                made.append({"reference": reference, "text": text, "target": sorted(names[other]), "kind": kind})
    return sorted(made, key=lambda query: uniform("name query", seed, query["reference"]))[:number]


def _changes(names: Iterable[str]) -> dict[str, list[tuple[str, str, str, str]]]:
    """By name: (kind, old, new, other name) of every other name that differs in one word or one attribute."""
    alike: dict[tuple[Any, ...], list[tuple[str, str]]] = defaultdict(list)
    for name in names:
        head, _, tail = name.partition(": ")
        parts = {"word": head.split(" "), "attribute": tail.split(", ") if tail else []}
        for kind, own in parts.items():
            for at, part in enumerate(own):
                rest = (parts["attribute" if kind == "word" else "word"], own[:at], own[at + 1 :])
                alike[kind, json.dumps(rest)].append((name, part))
    changes: dict[str, list[tuple[str, str, str, str]]] = defaultdict(list)
    for (kind, _), group in alike.items():
        for name, old in group if 1 < len(group) <= _MOST else []:
            for other, new in group:
                if other != name:
                    skin = kind == "attribute" and old.endswith(_SKIN) and new.endswith(_SKIN)
                    changes[name].append(("skin" if skin else kind, old, new, other))
    return changes


def _drawn(choices: Any, *key: Any) -> Any:
    return choices[int(uniform(*key) * len(choices))]


def gate() -> dict[str, float | list[float]]:
    """How many queries names of a known make give, and how many of them name a picture that does not differ as the text says."""
    skins = ("light skin tone", "medium skin tone", "dark skin tone")
    names = [f"{who} {what}: {skin}" for who in ("man", "woman") for what in ("judge", "cook") for skin in skins]
    pictures = [(f"{maker}_{at:02d}.png", name) for maker in ("a", "b") for at, name in enumerate(names)]
    made, by_path = name_queries(pictures), dict(pictures)
    wrong = [q for q in made for target in q["target"] if sum(a != b for a, b in zip(_parts(by_path[q["reference"]]),
             _parts(by_path[target]), strict=True)) != 1 or q["reference"][0] != target[0]]  # fmt: skip
    return {"queries": len(made), "wrong_targets": len(wrong)}


def _parts(name: str) -> list[str]:
    return name.replace(": ", " ", 1).split(" ", 2)


def main(captions: Path, number: Annotated[int, typer.Option(help="queries at most")] = 1500) -> None:
    rows = [json.loads(line) for line in captions.read_text(encoding="utf-8").splitlines() if line.strip()]
    for query in name_queries([(row["image"], row["caption"]) for row in rows], number):
        print(json.dumps(query, ensure_ascii=False))


if __name__ == "__main__":
    typer.run(main)
