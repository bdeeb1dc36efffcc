"""Known limits of a data set, as far as its own tables show them. A sentence is there only where it is true of this lake."""

from __future__ import annotations

from collections.abc import Iterator

from mmret.export.card_facts import LakeFacts


def limits(facts: LakeFacts) -> Iterator[str]:
    """Sentences for the card, the gravest first."""
    total = facts.counts["triplets"]
    by_rules = {
        column: sum(row["triplets"] for row in facts.annotators if (row[column] or "").startswith("captions@"))
        for column in ("description_model", "instruction_model")
    }
    unseen, without_model = max(by_rules.values()), by_rules["instruction_model"]
    if unseen:
        yield (
            f"{_share(unseen, total)} of the triplets have texts written from the difference of two captions: no model "
            "looked at the pictures, so what the captions do not say is not in the text."
        )
    if without_model < total:
        yield "Texts written by a model can be wrong about the pictures; nobody checked them all."
    unknown = sum(n for licence, n in facts.image_licences.items() if "unknown" in licence.terms)
    if unknown:
        yield (
            f"{_share(unknown, facts.counts['images'])} of the pictures have a licence that is not given or cannot be read. "
            "Whether they may be passed on is for you to find out."
        )
    if alike := sum(n for licence, n in facts.image_licences.items() if "share_alike" in licence.terms):
        yield (
            f"{_share(alike, facts.counts['images'])} of the pictures are share-alike: what is built from them may have to be "
            "so, too."
        )
    towers = facts.profile.towers
    if towers is not None and any(model.startswith("towers/") for model in facts.encoders.values()):
        yield (
            f"Similarities are those of small encoders trained on this corpus alone ({towers.image_size} px, {towers.layers} "
            "layers); they see colour and coarse shape rather than detail."
        )
    told = [row for row in facts.evaluations if row["benchmark"] == "held-out triplets" and row["metric"] == "text R@1"]
    composed = {
        row["recipe"]: row["value"]
        for row in facts.evaluations
        if row["benchmark"] == "held-out triplets" and row["metric"] == "R@1"
    }
    for row in told:
        if row["recipe"] != "untrained" and row["value"] >= 0.7 * max(composed.get(row["recipe"], 0), 1):
            yield (
                f"The instruction alone finds {row['value']:.0f} % of the held-out targets first (with the picture: "
                f"{composed[row['recipe']]:.0f} %): many instructions retell their target instead of the change."
            )
    if not facts.leaks and not facts.profile.leaks.benchmarks:
        yield "The corpus was not compared with the pictures of any benchmark."
    reviewed = sum(facts.decisions.values())
    yield (f"{reviewed:,} of {total:,} triplets were reviewed by a person." if reviewed else "No triplet was reviewed by a person.")
    yield (
        "A picture listed as hard negative is near the query by similarity; nobody made sure that it does not fit the "
        "instruction. A target is one of possibly several right answers."
    )
    yield "Nothing was filtered for unsafe, private or offensive content beyond what the sources did."


def _share(part: int, whole: int) -> str:
    return "All" if part == whole else f"{100 * part / whole:.1f} %"
