"""The model card of a checkpoint: what it was trained on, how, and what was measured, from the lake's own tables.

It is the ``README.md`` of the checkpoint's folder, so the folder can be passed on as it is; its metadata carries the results in
Hugging Face's form. Cost: a second or two; written again whenever the recipe is evaluated.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmret.benchmarks.figures import by_direction, markdown, nest
from mmret.benchmarks.probes import is_robustness
from mmret.errors import UserError
from mmret.export.card_facts import LakeFacts, gather_facts
from mmret.export.card_limits import limits
from mmret.export.card_robustness import robustness
from mmret.export.data_card import PAPER, Card, evaluation_rows, hub_licences, shown, write_card
from mmret.export.markdown import code, plain, table
from mmret.lake import Facts, Lake
from mmret.settings import Profile
from mmret.tasks import COMPOSED, TASKS

_METRICS = ("R@1", "R@5", "R@10", "R@50", "image R@1", "text R@1")
_RERANKED = ("R@1", "R@5", "R@10", "R@50", "first R@1", "first R@10")
_USE_RERANKER = """```python
import mmret

reranker = mmret.Reranker.load("FOLDER")
reranker.score([("a.jpg", "the same at night")] * 2, ["b.jpg", "c.jpg"])   # higher is better, for one query
```"""
_USE = """```python
import mmret

retriever = mmret.Retriever.load("FOLDER")
retriever.encode(images=["a.jpg"], texts=["the same at night"])   # a composed query, a unit vector
retriever.encode(images=["b.jpg"])                                # what it is compared with
```"""
_WHAT = {False: "A universal multimodal retriever", True: "A multimodal reranker, which orders what a retriever found,"}
_TAGS = {False: ["multimodal-retrieval", "sentence-transformers"], True: ["multimodal-reranking"]}
_CLIP = """The files are those of a stock model of `transformers` (`CLIPModel`, or `SiglipModel` where the base was one) and of
`sentence-transformers`: a composed query is the normalised sum of the picture's and the text's features."""


def write_model_card(lake: Lake, profile: Profile, recipe: str, out: Path | None = None) -> Path | str:
    """Write the card of ``recipe``'s checkpoint to ``out``, by default ``README.md`` in its folder; returns where it is.

    In an object store it lies beside the files of the checkpoint, which are not written again. Raises UserError without one.
    """
    rows = lake.read("checkpoints", recipe).to_pylist() if recipe in lake.partitions("checkpoints") else []
    if not rows:
        raise UserError(f"no checkpoint of recipe '{recipe}' in {lake.address}: train it with `mmret run`")
    facts = gather_facts(lake, profile)
    if out is not None:
        return write_card(out, lambda _: model_card(facts, rows[0]))
    key = f"{rows[0]['folder']}/README.md"
    lake.storage.write(key, model_card(facts, rows[0]).text.encode())
    return Path(lake.storage.shown(key)) if lake.storage.is_local else lake.storage.shown(key)


def with_model_card(lake: Lake, profile: Profile, recipe: str, evaluated: Facts) -> Facts:
    """Write the card again after an evaluation, where there is a checkpoint to describe.

    Returns ``evaluated``, the facts of the evaluation, so that a stage can end with the call.
    """
    if lake.read("checkpoints", recipe, ["recipe"]).num_rows:
        write_model_card(lake, profile, recipe)
    return evaluated


def model_card(facts: LakeFacts, checkpoint: dict[str, Any]) -> Card:
    """Markdown with Hugging Face's metadata. ``checkpoint``: a row of table ``checkpoints``."""
    recipe, settings = checkpoint["recipe"], json.loads(checkpoint["settings"])
    reranks = settings["kind"] == "reranker"
    evaluations = [row for row in facts.evaluations if row["recipe"] in ((recipe,) if reranks else (recipe, "untrained"))]
    title = f"MMRet {settings['kind']}: {recipe}"
    sections = [
        f"# {plain(title)}",
        f"{_WHAT[reranks]} for composed queries (a picture and what should be different), trained with recipe "
        f"{code(recipe)} on mined triplets, from {code(_base(settings['base']))}.",
        "## Use",
        _USE_RERANKER if reranks else _USE,
        _CLIP if settings["kind"] == "clip" else "",
        "## Results",
        _results([row for row in evaluations if row["benchmark"] not in TASKS and not is_robustness(row["benchmark"])], reranks),
        "" if reranks else _directions(evaluations, recipe),
        "" if reranks else robustness(evaluations),
        "## Training",
        table(["what", "value"], _training(checkpoint)),
        _mixture(facts.lake, recipe),
        _opted_out(facts, recipe),
        table(["setting", "value"], [[code(k), code(json.dumps(_base(v) if k == "base" else v))] for k, v in settings.items()]),
        "## Training data",
        _data(facts),
        "## Known limits",
        "\n".join(f"- {line}" for line in limits(facts)),
        "## Method and citation",
        f"The method is that of MegaPairs ([arXiv 2412.14475]({PAPER})); these are not the authors' weights. Made with `mmret`.",
    ]
    text = "\n\n".join(s for s in sections if s) + "\n"
    return Card(title, f"---\n{_front_matter(facts, recipe, settings, evaluations)}\n---\n{text}", {})


def _base(base: Any) -> Any:
    """A base model without where it lies on someone's disk."""
    return Path(base).name if isinstance(base, str) and Path(base).is_absolute() else base


def _results(evaluations: list[dict[str, Any]], reranks: bool) -> str:
    metrics = _RERANKED if reranks else _METRICS
    rows = evaluation_rows(evaluations, metrics)
    if not rows:
        return "Not evaluated yet."
    if reranks:
        return (
            table(["benchmark", "queries", "gallery", "model", *metrics], rows)
            + "\n\nRecall in percent over the whole gallery, the reference removed, after the first hits of a retriever were "
            "reranked; `first` is before that."
        )
    return (
        table(["benchmark", "queries", "gallery", "model", *_METRICS], rows)
        + "\n\nRecall in percent over the whole gallery, the reference removed; `image` and `text` are the query's parts "
        "alone, and `untrained` is the model that the lake's first recipe starts from."
    )


def _directions(evaluations: list[dict[str, Any]], recipe: str) -> str:
    """Every kind of query before and after training; nothing where none but composed ones was measured."""
    directions = by_direction(nest(evaluations), recipe)
    if not any(of.task.name != COMPOSED for of in directions):
        return ""
    said = "Every kind of query, strongest first, recall in percent. What is right: a picture's own caption and back; pictures of "
    said += "the same, told by their captions or attributes; the targets of held-out triplets."
    return f"{markdown(directions, plain(recipe))}\n\n{said}"


def _training(checkpoint: dict[str, Any]) -> list[list[str]]:
    return [
        ["steps", f"{checkpoint['step']:,}"],
        ["pairs seen", f"{checkpoint['pairs']:,}"],
        ["last loss", f"{checkpoint['loss']:.4f}"],
        ["seconds", f"{checkpoint['seconds']:,.0f}"],
    ]


def _mixture(lake: Lake, recipe: str) -> str:
    """The rows of each task that it was trained on; nothing where that was ``composed`` alone."""
    noted = lake.facts("checkpoints", recipe)
    tasks = (noted.notes.get("tasks") if noted else None) or {}
    if not set(tasks) - {COMPOSED}:
        return ""
    rows = [[TASKS[name].shown, f"{of['rows']:,}", f"{of['seen']:,}"] for name, of in tasks.items() if name in TASKS]
    return table(["kind of query", "rows", "seen in training"], rows)


def _opted_out(facts: LakeFacts, recipe: str) -> str:
    from mmret.retriever.opted_out_since import opted_out_since  # with what training needs

    n = opted_out_since(facts.lake, recipe)
    return f"**Trained on {n:,} pictures that have opted out since.**" if n else ""


def _data(facts: LakeFacts) -> str:
    sources = ", ".join(f"{plain(row['root'])} ({row['images']:,} pictures)" for row in facts.sources)
    licences = ", ".join(f"{plain(licence.name, 80)} ({n:,} triplets)" for licence, n in list(facts.triplet_licences.items())[:12])
    return (
        f"Split `train` of the lake has {facts.splits.get('train', 0):,} triplets; split `test` was kept out of training.\n\n"
        f"Sources: {sources}.\n\nLicences of the pictures: {licences}."
    )


def _task_name(benchmark: str) -> str:
    return f"Retrieval, {TASKS[benchmark].shown}" if benchmark in TASKS else "Composed image retrieval"


def _front_matter(facts: LakeFacts, recipe: str, settings: dict[str, Any], evaluations: list[dict[str, Any]]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-retrieval",
            task_name=_task_name(row["benchmark"]),
            dataset_name=shown(row["benchmark"]),
            dataset_type=f"mmret-{row['benchmark'].replace(' ', '-')}",
            metric_type=row["metric"],
            metric_name=row["metric"],
            metric_value=round(row["value"], 3),
        )
        for row in evaluations
        if row["recipe"] == recipe and row["metric"] in _METRICS and not is_robustness(row["benchmark"])
    ]
    licences = hub_licences(facts.triplet_licences)
    base = settings["base"]
    hub = None if base.startswith(("towers/", "checkpoints/")) or Path(base).exists() else base
    data = ModelCardData(
        license=licences[0] if len(licences) == 1 else "other",
        library_name="transformers",
        pipeline_tag="text-ranking" if settings["kind"] == "reranker" else "feature-extraction",
        tags=["composed-image-retrieval", *_TAGS[settings["kind"] == "reranker"], "megapairs", "mmret"],
        model_name=f"mmret-{settings['kind']}-{recipe}",
        eval_results=results or None,
        base_model=hub,
    )
    return data.to_yaml()
