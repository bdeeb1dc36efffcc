"""What enters the fingerprint of a stage: the settings that change its results, and tables that are read by some settings only.

Functions of (profile, partition) for the rows of :mod:`mmret.stages`; fields that change no result are left out. Cost nothing but
the digest of local weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from mmret.annotate.backends.load import fingerprint_settings
from mmret.annotate.candidate_judge import judge_version
from mmret.annotate.retry import needs_retry
from mmret.curation.decisions import decisions_fingerprint
from mmret.encode.revision import local_weights
from mmret.filters.versions import VERSIONS
from mmret.lake import Facts, Lake
from mmret.retriever.train.rows import COLUMNS as TRIPLET_COLUMNS
from mmret.retriever.train.rows import also_reads, uses_all
from mmret.schemas import CORPUS_MANIFEST
from mmret.search.models import RERANKER
from mmret.settings import AnnotateSettings, Profile, Recipe
from mmret.settings.recipe_links import asks_judge, base_recipe, measured_on, scores_name, scores_partition
from mmret.stage_declaration import Reads


def section(name: str, leave_out: tuple[str, ...] = (), added_later: tuple[str, ...] = ()) -> Callable[[Profile, str], Any]:
    """The settings called ``name`` as plain values, without the fields that change no result. Fields ``added_later`` count only
    where they are not the default, which is what was done before there were any: nothing turns stale for them."""

    def values(profile: Profile, _: str) -> Any:
        found: Any = profile
        for part in name.split("."):
            found = found[part] if isinstance(found, dict) else getattr(found, part)
        if not hasattr(found, "model_dump"):
            return found
        usual = {name for name in added_later if getattr(found, name) == type(found).model_fields[name].default}
        return found.model_dump(exclude={*leave_out, *usual})

    return values


def encoder_settings(profile: Profile, signal: str) -> Any:
    encoder = profile.encoders[signal]
    weights = local_weights(encoder.model, encoder.revision)
    later = ("pooling", "prompt_name", "prompt", "engine", "precision")
    values = section(f"encoders.{signal}", leave_out=("batch_size", "device"), added_later=later)
    return values(profile, signal) | ({"weights": weights} if weights else {})


def search_settings(profile: Profile, _: str) -> Any:
    """The settings that candidates depend on; those of an index only where one is used."""
    values = profile.mine.model_dump(include={"k", "bands", "signals"})
    index = profile.mine.index.model_dump(exclude={"checked", "recall_floor"})
    return values if profile.mine.index.kind == "exact" else values | {"index": index}


def annotation_settings(table: Literal["descriptions", "instructions"]) -> Callable[[Profile, str], Any]:
    return lambda profile, _: fingerprint_settings(profile.annotate, table)


def unanswered(profile: Profile, facts: Facts) -> bool:
    return needs_retry(facts.notes, profile.annotate.retries)


def recipe_settings(profile: Profile, name: str) -> Any:
    recipe = profile.recipes[name]
    values = recipe.decisive()
    if recipe.as_of is not None:
        values["as_of"] = recipe.as_of
    if not profile.licences.keeps_all():
        values["licences"] = profile.licences.model_dump()
    if recipe.pair_source == "naive":  # drawn and worded while training, from the captions
        values |= {"held_out": profile.evaluate.held_out, "texts": fingerprint_settings(AnnotateSettings(), "instructions")}
    if asks_judge(profile.recipes, recipe.teacher):
        values["judge"] = judge_version(profile.annotate)
    if recipe.filters:
        asked = {"judge": judge_version(profile.annotate)} if "judge" in recipe.filters else {}
        values["filtered_by"] = {name: [VERSIONS[name], asked.get(name)] for name in sorted(recipe.filters)}
    return values


def learns_from(profile: Profile, name: str) -> list[str]:
    """Recipes whose checkpoints decide what recipe ``name`` is trained on, besides its base."""
    recipe = profile.recipes[name]
    teacher = None if asks_judge(profile.recipes, recipe.teacher) or scores_name(recipe.teacher) else recipe.teacher
    return [other for other in (teacher, recipe.first_hits_of()) if other]


def recipe_reads(profile: Profile, name: str) -> tuple[Reads, ...]:
    """Tables that some recipes read too, scores that were brought, and the checkpoint that a recipe of base
    ``checkpoints/<recipe>`` goes on from."""
    recipe: Recipe = profile.recipes[name]
    tables = [Reads(table, "all") for table in also_reads(recipe, profile.licences)]
    if brought := scores_name(recipe.teacher):
        tables.append(Reads("teacher_scores", "named", scores_partition(brought)))
    base = base_recipe(recipe)
    others = dict.fromkeys([*([base] if base else []), *learns_from(profile, name)])
    return (*tables, *(Reads("checkpoints", "named", other) for other in others))


_LIMITS = ("max_spread", "max_negatives_first")  # from where on checks warn
evaluate = section("evaluate", leave_out=("rerank_depth", *_LIMITS))
evaluate_reranker = section("evaluate", leave_out=("texts", "captioned_pictures", "robustness", *_LIMITS))  # of retrievers alone


def evaluation_settings(profile: Profile, name: str) -> Any:
    recipe = profile.recipes[name]
    if recipe.kind != RERANKER:
        return evaluate(profile, name)
    return evaluate_reranker(profile, name) | {"retriever": retriever_of(profile, name)}


def retriever_of(profile: Profile, name: str) -> str | None:
    """The retriever that a reranker is measured on, as far as the settings say; None: whichever the lake has."""
    return measured_on(profile.recipes, profile.train, name)


def evaluation_reads(profile: Profile, name: str) -> tuple[Reads, ...]:
    """The checkpoint of the retriever whose first hits a reranker orders."""
    if profile.recipes[name].kind != RERANKER or (retriever := retriever_of(profile, name)) is None:
        return ()
    return (Reads("checkpoints", "named", retriever),)


def columns_trained_on(profile: Profile, name: str) -> tuple[str, ...]:
    return tuple(TRIPLET_COLUMNS) if uses_all(profile.recipes[name], profile.licences) else (*TRIPLET_COLUMNS, "licence")


def recipe_decisions(lake: Lake, profile: Profile, name: str) -> str | None:
    return decisions_fingerprint(lake, profile.recipes[name].decisions)


def scorer_settings(profile: Profile, _: str) -> Any:
    """What decides a score: not the thresholds, which decide what it is used for."""
    runtime = {"minimum", "maximum", "batch_size", "device"}
    return {
        name: s.model_dump(exclude=runtime) | {"weights": local_weights(s.model, s.revision) if s.model else None}
        for name, s in profile.scores.items()
    }


def thresholds(profile: Profile) -> dict[str, list[float | None]]:
    limits = {name: [s.minimum, s.maximum] for name, s in profile.scores.items()}
    return {name: limit for name, limit in limits.items() if limit != [None, None]}


def pair_settings(profile: Profile, partition: str) -> Any:
    """Settings ``mine``, and the thresholds of scores where there are any."""
    values = section("mine", leave_out=("tile", "device", "index"), added_later=("draw", "duplicates"))(profile, partition)
    return values | ({"scores": limits} if (limits := thresholds(profile)) else {})


def reads_of_pairs(profile: Profile, _: str) -> tuple[Reads, ...]:
    """Tables by which settings keep pictures out of pairs."""
    groups = (Reads("duplicates", "all"),) if profile.mine.duplicates == "one_of_group" else ()
    return (*groups, *reads_of_thresholds(profile))


def reads_of_thresholds(profile: Profile) -> tuple[Reads, ...]:
    return (Reads("scores", "linked", "neighbours"),) if thresholds(profile) else ()


def task_settings(profile: Profile, partition: str) -> Any:
    values = section("evaluate.held_out")(profile, partition)
    return {"held_out": values, "scores": limits} if (limits := thresholds(profile)) else values


def images_of_pairs(*columns: str) -> Reads:
    return Reads("images", "linked", "pairs", columns=("image_id", *columns))


MANIFEST_COLUMNS = tuple(name for name in CORPUS_MANIFEST.names if name != "mtime_ns")  # a file's time decides nothing
