"""``mmret search``: the corpus by image, by text, or by an image and what should change in it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmret.cli.lake_option import LakeOption
from mmret.errors import UserError
from mmret.lake import Lake

if TYPE_CHECKING:
    from mmret.search.search import Query, Searcher


def search(
    lake: LakeOption,
    recipe: Annotated[str | None, typer.Option(help="checkpoint to use, or 'untrained'; default: the lake's first")] = None,
    image: Annotated[Path | None, typer.Option(help="query image: a file, or a path of the corpus manifest")] = None,
    text: Annotated[str | None, typer.Option(help="query text, or with --image the change wanted")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="how many images")] = 10,
    rerank: Annotated[str | None, typer.Option(help="recipe of a reranker, which orders the first hits anew")] = None,
    rerank_depth: Annotated[int, typer.Option(min=1, help="so many of them")] = 50,
    why: Annotated[bool, typer.Option("--why", help="with the training triplets nearest to the query, for each image")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the hits as JSON")] = False,
) -> None:
    """Find images of the corpus. The query image itself, where it is in the corpus, is left out."""
    from mmret.cli.terminal import console, print_json, printable, say_loading, stderr_reporter
    from mmret.lake.configuration import resolve
    from mmret.progress import reporting
    from mmret.search.models import pick_recipe, pick_reranker

    if image is None and not (text or "").strip():
        raise UserError("give --image, --text or both")
    store = Lake(lake)
    profile, _ = resolve(store)
    name = pick_recipe(store, profile, recipe)
    if rerank is not None:
        pick_reranker(store, profile, rerank)  # before the corpus is embedded
    say_loading()
    from mmret.search.search import Query, Searcher, query_image

    query = Query(None if image is None else query_image(store, image), text or "")
    searcher = Searcher(store, profile)
    with reporting(stderr_reporter(f"embedding the corpus with {name}")):
        found = searcher.search(name, query, k, rerank=rerank, rerank_depth=rerank_depth)
    scores = ("score",) if rerank is None else ("score", "rerank_score")
    hits = [{**hit, **{name: None if hit[name] is None else round(hit[name], 4) for name in scores}} for hit in found.hits]
    remarks = _add_reasons(searcher, name, query, hits) if why else []
    if as_json:
        print_json(hits, indent=1)
        return
    from rich import box
    from rich.table import Table

    table = Table("", *(column.replace("_", " ") for column in scores), "path", "caption", box=box.SIMPLE_HEAD)
    for rank, hit in enumerate(hits, 1):
        said = ["" if hit[column] is None else f"{hit[column]:.3f}" for column in scores]
        table.add_row(str(rank), *said, printable(hit["path"]), printable(_shortened(hit["caption"])))
    console().print(table)
    if why:
        table = Table("", "queries alike", "targets alike", "instruction", "pair", box=box.SIMPLE_HEAD)
        for rank, hit in enumerate(hits, 1):
            for reason in hit["reasons"]:
                alike = "itself" if reason["is_target"] else f"{reason['target_score']:.3f}"
                table.add_row(str(rank), f"{reason['query_score']:.3f}", alike, printable(reason["text"]), reason["pair_id"])
        console().print(table)
        for remark in remarks:
            console(stderr=True).print(remark)


def _add_reasons(searcher: Searcher, recipe: str, query: Query, hits: list[dict[str, Any]]) -> list[str]:
    """Give each of ``hits`` its ``reasons``; returns what there is to say of those without."""
    from mmret.search.reasons import Reasons

    snapshot, reasons, remarks = searcher.snapshot(recipe), Reasons(searcher.lake), {}
    for rank, hit in enumerate(hits, 1):
        found = reasons.why(snapshot, recipe, query, hit["image_id"])
        hit["reasons"] = [
            {**asdict(r), "query_score": round(r.query_score, 4), "target_score": round(r.target_score, 4)} for r in found.reasons
        ]
        if found.remark:
            remarks.setdefault(found.remark, []).append(str(rank))
    return [f"image {', '.join(ranks)}: {remark}" for remark, ranks in remarks.items()]


def _shortened(caption: str, most: int = 200) -> str:
    return caption if len(caption) <= most else caption[: most - 1] + "…"
