"""The data card of a lake: what is in it, where it comes from, how it was made and what it is not good for.

Every figure is asked of the tables at the time of writing (:mod:`mmret.export.card_facts`). As ``README.md`` of an export it opens
with the metadata that Hugging Face reads. Cost: a few seconds, most of them for the histograms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmret.annotate.quality.coverage import kinds_shown, sentences
from mmret.atomic import replacing, write_text
from mmret.benchmarks.probes import is_robustness
from mmret.curation.licences import Licence
from mmret.errors import UserError
from mmret.export.card_facts import LakeFacts, gather_facts, settings_rows
from mmret.export.card_limits import limits
from mmret.export.card_pictures import histograms, thumbnail
from mmret.export.card_robustness import robustness
from mmret.export.loading import FIELDS, LOADING
from mmret.export.markdown import code, picture, plain, table, to_html
from mmret.export.rows import Plan
from mmret.hashing import uniform
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.settings import Profile
from mmret.tasks import TASKS

SAMPLES = 8
PAPER = "https://arxiv.org/abs/2412.14475"
_HUB_LICENCES = re.compile(r"cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-(2\.0|2\.5|3\.0|4\.0)|mit|apache-2\.0|bsd-3-clause|odbl|unknown")


@dataclass(frozen=True)
class ExportFacts:
    """What a card says of the export it lies in: its format, what was written, and ``configs`` for Hugging Face."""

    format: str
    plan: Plan
    configs: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Card:
    """``text`` is Markdown; ``pictures`` the files it shows, by name."""

    title: str
    text: str
    pictures: dict[str, bytes]


def write_data_card(lake: Lake, profile: Profile, out: Path, export: ExportFacts | None = None) -> Path:
    """Write the card of ``lake`` to ``out``, a ``.md`` (pictures in a folder beside it) or ``.html`` file (pictures inside).

    ``profile``: the settings that the lake is run with, of which the card tells. Raises UserError where there are no triplets.

    >>> write_data_card(lake, resolve(lake)[0], Path("card.html"))
    """
    if not lake.partitions("triplets"):
        raise UserError(f"{lake.address} has no triplets yet: run `mmret run --lake {lake.address}` first")
    return write_card(out, lambda folder: data_card(lake, profile, folder, export))


def write_card(out: Path, make: Callable[[str], Card]) -> Path:
    """Write what ``make(folder)`` returns; raises UserError for another kind of file. The page itself is written last."""
    if out.suffix not in (".md", ".html"):
        raise UserError(f"{out}: a card is a .md or .html file")
    folder = f"{out.stem}_pictures"
    card = make(folder)
    if out.suffix == ".html":
        write_text(out, to_html(card.text, card.title, card.pictures))
        return out
    for name, data in card.pictures.items():
        path = out.parent / name
        with replacing(path) as aside:
            aside.write_bytes(data)
    write_text(out, card.text)
    return out


def data_card(lake: Lake, profile: Profile, folder: str, export: ExportFacts | None = None) -> Card:
    """The card, its pictures named ``<folder>/...``; with ``export`` it opens with Hugging Face's metadata."""
    facts = gather_facts(lake, profile)
    title = f"Composed-retrieval triplets: {lake.name}"
    pictures = {f"{folder}/histograms.png": histograms(facts)}
    sections = [
        f"# {plain(title)}",
        _summary(facts),
        *_export(export),
        "## Contents",
        _counts(facts),
        "## Sources",
        _sources(facts),
        "## Licences",
        _licences(facts),
        "## Samples",
        _samples(facts, folder, pictures),
        "## Distributions",
        picture(f"{folder}/histograms.png", "Histograms of scores, instruction lengths and picture sizes"),
        *_changes(facts),
        "## How it was made",
        *_making(facts),
        *_review(facts),
        *_results(facts),
        "## Known limits",
        "\n".join(f"- {line}" for line in limits(facts)),
        "## Method and citation",
        _citation(),
    ]
    text = "\n\n".join(s for s in sections if s) + "\n"
    if export is not None:
        text = f"---\n{_front_matter(facts, export, title)}\n---\n{text}"
    return Card(title, text, pictures)


def _summary(facts: LakeFacts) -> str:
    n = facts.counts
    return (
        f"{n['triplets']:,} triplets (picture, instruction, target picture) over {n['images']:,} pictures, with "
        f"{facts.texts:,} instructions and hard negatives. Pairs were mined from a captioned corpus by three similarities, "
        f"described, and turned into instructions, as in [MegaPairs]({PAPER})."
    )


def _export(export: ExportFacts | None) -> Iterator[str]:
    if export is None:
        return
    plan = export.plan
    rows = [
        [plain(name), split, f"{plan.count(name, split):,}", f"{len(plan.images[name]):,}"]
        for name in plan.sets()
        for split in plan.settings.splits
    ]
    yield "## This export"
    yield f"Format: {export.format}."
    yield table(["set", "split", "triplets", "pictures of the set"], rows)
    if plan.left_out:
        yield "Left out of the lake's triplets: " + ", ".join(f"{n:,} by {reason}" for reason, n in plan.left_out.items()) + "."
    yield LOADING[export.format]
    yield table(["field", "meaning"], [[code(name), meaning] for name, meaning in FIELDS.items()])


def _counts(facts: LakeFacts) -> str:
    n, splits = facts.counts, facts.splits
    rows = [
        ("pictures", n["images"]),
        ("files rejected at ingest", n["rejects"]),
        ("pairs", n["pairs"]),
        ("triplets", n["triplets"]),
        *((f"of split {split}", count) for split, count in splits.items()),
        ("query pictures with a triplet", facts.queries),
        ("instructions", facts.texts),
        *((f"rows of {TASKS[name].shown}", count) for name, count in facts.tasks.items() if name in TASKS),
        *((f"pictures shared with benchmark {name}, kept out of pairs", count) for name, count in facts.leaks.items()),
    ]
    if n["duplicates"]:
        rows.append((f"pictures with near-duplicates, in {facts.duplicate_groups:,} groups", n["duplicates"]))
    for row in facts.picture_scores:
        limits = facts.profile.scores.get(row["scorer"])
        kept = f", used {limits.minimum} to {limits.maximum}" if limits and (limits.minimum, limits.maximum) != (None, None) else ""
        spread = ", ".join(f"{value:.3g}" for value in row["spread"])
        rows.append((f"score {row['scorer']} (0, 10, 50, 90 and 100 %: {spread}{kept})", row["pictures"]))
    return table(["what", "count"], [[plain(name), f"{count:,}"] for name, count in rows])


def _sources(facts: LakeFacts) -> str:
    parts = [
        table(
            ["source", "pictures", "words per caption: least, median, most"],
            [
                [plain(row["root"]), f"{row['images']:,}", f"{row['shortest']}, {row['median']:g}, {row['longest']}"]
                for row in facts.sources
            ],
        )
    ]
    if facts.rejects:
        parts.append("Rejected: " + ", ".join(f"{plain(r.replace('_', ' '))} {n:,}" for r, n in facts.rejects.items()) + ".")
    return "\n\n".join(parts)


def _licences(facts: LakeFacts) -> str:
    both: dict[Licence, list[int]] = {}
    for column, counts in enumerate((facts.image_licences, facts.triplet_licences)):
        for licence, n in counts.items():
            both.setdefault(licence, [0, 0])[column] += n
    first = sorted(both.items(), key=lambda item: -item[1][0])[:25]
    rows = [
        [
            plain(licence.name, 80),
            ", ".join(sorted(t.replace("_", " ") for t in licence.terms)) or "attribution at most",
            f"{images:,}",
            f"{triplets:,}",
        ]
        for licence, (images, triplets) in first
    ]
    more = f"\n\n{len(both) - 25:,} further licence texts." if len(both) > 25 else ""
    return table(["licence", "asks for", "pictures", "triplets that show one"], rows) + more


def _samples(facts: LakeFacts, folder: str, pictures: dict[str, bytes]) -> str:
    shard = facts.lake.partitions("triplets")
    rows = [row for part in shard for row in facts.lake.head("triplets", part, 2000).to_pylist()]
    chosen = sorted(rows, key=lambda row: uniform("card", row["pair_id"]))[:SAMPLES]
    ids = [i for row in chosen for i in (row["query_id"], row["target_id"])]
    found = images_by_id(facts.lake, ids)
    for image_id in ids:
        pictures[f"{folder}/{image_id}.png"] = thumbnail(found[image_id])
    return table(
        ["query", "instruction", "target"],
        [
            [
                picture(f"{folder}/{row['query_id']}.png", "query"),
                " · ".join(plain(t, 160) for t in row["texts"][:3]),
                picture(f"{folder}/{row['target_id']}.png", "target"),
            ]
            for row in chosen
        ],
    )


def _changes(facts: LakeFacts) -> Iterator[str]:
    if facts.changes is None:
        return
    yield "## What the pairs change"
    yield (
        "As far as the captions tell. Words are one kind where the corpus has one in place of the other in captions that are "
        "otherwise equal; shares are of the pairs whose captions tell a difference."
    )
    rows = [[plain(name), f"{100 * there:.1f}", f"{100 * one_sided:.1f}"] for name, there, one_sided in kinds_shown(facts.changes)]
    yield table(["kind of words", "replaced in % of the pairs", "added or removed in %"], rows)
    yield "\n".join(f"- {plain(line)}" for line in sentences(facts.changes))


def _making(facts: LakeFacts) -> Iterator[str]:
    yield table(
        ["signal", "model", "band of similarity"],
        [[code(signal), plain(model) or "none", _band(facts.bands.get(signal))] for signal, model in facts.encoders.items()],
    )
    yield table(
        ["descriptions by", "prompt", "instructions by", "prompt", "triplets"],
        [
            [
                plain(row["description_model"]),
                plain(row["description_prompt"]),
                plain(row["instruction_model"]),
                plain(row["instruction_prompt"]),
                f"{row['triplets']:,}",
            ]
            for row in facts.annotators
        ],
    )
    yield f"Settings of profile {code(facts.profile.name)}:"
    yield table(
        ["setting", "value"],
        [[code(name), code(value)] for name, value in settings_rows(facts.profile, facts.lake.read_configuration())],
    )


def _band(band: list[float] | None) -> str:
    return f"{band[0]:.3f} to {band[1]:.3f}" if band else "not recorded"


def _review(facts: LakeFacts) -> Iterator[str]:
    if facts.decisions:
        yield "## Review by people"
        yield (
            ", ".join(f"{n:,} triplets {name}" for name, n in sorted(facts.decisions.items()))
            + f", of {facts.counts['triplets']:,}; the others were not looked at one by one."
        )


def _results(facts: LakeFacts) -> Iterator[str]:
    rows = evaluation_rows([row for row in facts.evaluations if not is_robustness(row["benchmark"])])
    if rows:
        yield "## Retrievers trained on it"
        yield table(["benchmark", "queries", "gallery", "model", "R@1", "R@10"], rows)
        yield robustness(facts.evaluations)


def evaluation_rows(evaluations: list[dict[str, Any]], metrics: tuple[str, ...] = ("R@1", "R@10")) -> list[list[str]]:
    """Cells of a table, a line per benchmark and recipe, the untrained model first."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in evaluations:
        line = found.setdefault((row["benchmark"], row["recipe"]), {"queries": row["queries"], "gallery": row["gallery"]})
        line[row["metric"]] = row["value"]
    order = sorted(found, key=lambda key: (key[0], key[1] != "untrained", key[1]))
    return [
        [
            plain(shown(key[0])),
            f"{found[key]['queries']:,}",
            f"{found[key]['gallery']:,}",
            plain(key[1]),
            *(f"{found[key][m]:.1f}" if m in found[key] else "" for m in metrics),
        ]
        for key in order
    ]


def shown(benchmark: str) -> str:
    """A set of queries as people read it: a direction by its words."""
    return TASKS[benchmark].shown if benchmark in TASKS else benchmark


def _citation() -> str:
    return (
        "The method is that of *MegaPairs: Massive Data Synthesis For Universal Multimodal Retrieval* "
        f"([arXiv 2412.14475]({PAPER})); this data set is not the authors' release. Made with `mmret`; the same corpus and "
        "settings give the same tables."
    )


def _front_matter(facts: LakeFacts, export: ExportFacts, title: str) -> str:
    from huggingface_hub import DatasetCardData

    rows = sum(export.plan.count(*key) for key in export.plan.rows)
    data = DatasetCardData(
        pretty_name=title,
        license=hub_licences(facts.triplet_licences),
        size_categories=[size_category(rows)],
        task_categories=["image-feature-extraction"],
        annotations_creators=["machine-generated"],
        source_datasets=["original"],
        tags=["composed-image-retrieval", "megapairs", "triplets", "mmret"],
        **({"language": ["en"]} if facts.profile.annotate.language == "English" else {}),
        **({"configs": export.configs} if export.configs else {}),
    )
    return data.to_yaml()


def hub_licences(licences: dict[Licence, int]) -> list[str]:
    """Hugging Face's names of them, ``other`` for those it has none for."""
    names = [licence.name.lower() for licence in licences] or ["unknown"]
    return list(dict.fromkeys(name if _HUB_LICENCES.fullmatch(name) else "other" for name in names))


def size_category(rows: int) -> str:
    """Hugging Face's size class of a data set."""
    steps = [
        (10**3, "n<1K"),
        (10**4, "1K<n<10K"),
        (10**5, "10K<n<100K"),
        (10**6, "100K<n<1M"),
        (10**7, "1M<n<10M"),
        (10**8, "10M<n<100M"),
    ]
    return next((name for limit, name in steps if rows < limit), "100M<n<1B")
