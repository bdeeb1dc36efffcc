"""Towers trained on the corpus itself: what lets the whole pipeline run with no download, no GPU and in minutes.

``<lake>/towers/clip`` and ``<lake>/towers/dino`` are stock transformers folders, ``<lake>/towers/tfidf`` has the weights of the
captions' words; ``towers.json`` is written last and says what was done. Training can be stopped and goes on where it was
(:mod:`mmret.towers.pretrain`). The number of steps follows from the settings and the corpus, never from the clock, so that every
machine trains the same towers.

Batches are small because in a run this short the number of updates decides how good the model gets. Cost and held-out
image-to-text R@1 among 303 pictures, on 7,700 shapes pictures and two cores (processor time, halved): 5 epochs in batches of
256 took 42 s and gave 48 %, in batches of 128 43 s and 65 %; 3 epochs in batches of 64 took 24 s and gave 61 %.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmret import progress
from mmret.atomic import replacing_folder, write_text
from mmret.encode.augment import NEAR_DUPLICATE_VIEWS, seeded_generator, views
from mmret.encode.bands import propose
from mmret.encode.location import Location
from mmret.encode.pixels import from_image_processor
from mmret.encode.quiet import silence
from mmret.encode.revision import folder_revision
from mmret.encode.tfidf import TfidfEncoder, inverse_frequencies, save_tfidf
from mmret.hashing import fingerprint
from mmret.settings import BandSettings, TowerSettings
from mmret.towers import TOWERS_VERSION
from mmret.towers import clip as clip_tower
from mmret.towers import dino as dino_tower
from mmret.towers.corpus import CaptionedImage, TowerCorpus, decode_images, distinct_words
from mmret.towers.pretrain import Plan, fit
from mmret.towers.tokenizer import train_tokenizer

PLAIN_WORDS = 60
"""Distinct words of the corpus that ``epochs`` was chosen for; a corpus with more words is trained longer, see :func:`steps`."""
NEAR_DUPLICATES = 1000


def steps(epochs: int, images: int, words: int, settings: TowerSettings) -> int:
    """Number of training steps of a tower: ``epochs`` passes over ``images`` pictures.

    A corpus with more distinct ``words`` in its captions than the built-in shapes have gets more passes, by the square root of
    the ratio and up to ``max_richness`` times as many. At least ``min_steps``, at most ``max_steps``.
    """
    richness = min(max(1.0, math.sqrt(words / PLAIN_WORDS)), settings.max_richness)
    needed = math.ceil(epochs * richness * images / min(settings.batch_size, max(1, images)))
    needed = max(needed, settings.min_steps)
    return needed if settings.max_steps is None else min(needed, settings.max_steps)


def train(images: Iterable[CaptionedImage], settings: TowerSettings, folder: Path, inputs: str = "") -> dict[str, Any]:
    """Train both towers on (image_id, encoded picture, caption) and write ``folder``/clip, dino, tfidf and towers.json.

    Returns what ``towers.json`` holds: ``rows`` of the table ``towers``, the numbers of images, words and steps, losses, recall
    in percent among the images held out, seconds and settings. Towers in ``folder`` that were trained with the same settings
    and ``inputs`` are not trained again. Raises UserError for fewer than two pictures. Working files lie in ``<folder>.work``
    until the end.
    """
    path, work = folder / "towers.json", folder.with_name(f"{folder.name}.work")
    made_from = fingerprint(TOWERS_VERSION, settings.model_dump(), inputs)
    if path.is_file() and (record := json.loads(path.read_text()))["wish"] == made_from:
        return record
    started = time.perf_counter()
    progress.advance("towers", 0, None, "reading the corpus")
    pixels = from_image_processor(clip_tower.image_processor(settings).to_dict())
    corpus = decode_images(images, pixels, settings.max_images, settings.seed)
    key = fingerprint(made_from, corpus.key)
    trained = len(corpus.train)
    richness = distinct_words(corpus.captions)
    plans = {
        name: Plan(
            f"{key}-{name}", steps(epochs, trained, richness, settings), settings.learning_rate, settings.matrix_learning_rate
        )
        for name, epochs in (("clip", settings.epochs), ("dino", settings.dino_epochs))
    }
    total = sum(plan.steps for plan in plans.values())

    def report(offset: int, name: str) -> Callable[[int], None]:
        return lambda step: progress.advance("towers", offset + step, total, name)

    tokenizer = train_tokenizer(corpus.captions, settings.vocabulary, clip_tower.POSITIONS)
    tokens = clip_tower.token_table(tokenizer, corpus.captions)
    clip = clip_tower.new_clip(settings, tokenizer)
    clip_losses = fit(
        clip,
        clip_tower.caption_loss(clip, corpus, tokens, pixels, settings),
        plans["clip"],
        work / "clip.pt",
        report(0, "image and caption"),
        [*clip.text_model.encoder.layers, *clip.vision_model.encoder.layers],
    )
    dino = dino_tower.new_dino(settings)
    dino_pixels = from_image_processor(dino_tower.image_processor(settings).to_dict())
    dino_losses = fit(
        dino,
        dino_tower.pattern_loss(dino, corpus, dino_pixels, settings),
        plans["dino"],
        work / "dino.pt",
        report(plans["clip"].steps, "picture alone"),
        dino.encoder.layer,
    )

    with silence(), replacing_folder(folder / "clip") as aside:
        clip_tower.save_clip(clip, tokenizer, settings, aside)
    with silence(), replacing_folder(folder / "dino") as aside:
        dino_tower.save_dino(dino, settings, aside)
    with replacing_folder(folder / "tfidf") as aside:
        weights = save_tfidf(inverse_frequencies(corpus.captions), aside)
    models = {name: f"towers/{name}@{folder_revision(folder / name)}" for name in ("clip", "dino", "tfidf")}

    def see(name: str) -> Callable[[Tensor], Tensor]:
        forward = {
            "clip": lambda x: clip.get_image_features(pixels.normalise(x)).pooler_output,
            "dino": lambda x: dino(dino_pixels.normalise(x)).pooler_output,
        }[name]
        return lambda x: _embed(forward, x, settings.batch_size)

    text = _embed(
        lambda rows: clip.get_text_features(tokens[0][rows, : int(tokens[1][rows].max())]).pooler_output,
        torch.arange(len(corpus.ids)),
        settings.batch_size,
    )
    tfidf = TfidfEncoder(weights, Location("towers/tfidf", folder / "tfidf", None))
    words = torch.from_numpy(tfidf.encode_texts(corpus.captions))
    spaces = {
        "clip_image": (models["clip"], *_self_similarity(see("clip"), corpus, settings)),
        "dino_image": (models["dino"], *_self_similarity(see("dino"), corpus, settings)),
        "caption": (models["tfidf"], words, torch.ones(len(words))),
    }
    rows = []
    for signal, (model, vectors, alike) in spaces.items():
        band = propose(vectors.numpy(), alike.numpy()) if len(vectors) > 2 else BandSettings()
        rows.append(
            {
                "signal": signal,
                "model": model,
                "images": trained,
                "band_low": band.low,
                "band_high": band.high,
                "steps": {"clip_image": plans["clip"].steps, "dino_image": plans["dino"].steps}.get(signal, 0),
            }
        )
    out = corpus.held_out
    record = {
        "wish": made_from,
        "rows": rows,
        "images": trained,
        "held_out": len(out),
        "distinct_words": richness,
        "steps": {name: plan.steps for name, plan in plans.items()},
        "losses": {"clip": _thin_out(clip_losses), "dino": _thin_out(dino_losses)},
        "retrieval": clip_tower.retrieval_recall(spaces["clip_image"][1][out], text[out], [corpus.captions[i] for i in out])
        if len(out)
        else {},
        "seconds": round(time.perf_counter() - started, 1),
        "settings": settings.model_dump(),
    }
    write_text(path, json.dumps(record, indent=1))
    shutil.rmtree(work, ignore_errors=True)
    return record


@torch.inference_mode()
def _embed(forward: Callable[[Tensor], Tensor], inputs: Tensor, batch: int) -> Tensor:
    """Unit vectors (n, d) of the rows of ``inputs``."""
    return torch.cat([normalize(forward(part)) for part in inputs.split(batch)])


def _self_similarity(see: Callable[[Tensor], Tensor], corpus: TowerCorpus, settings: TowerSettings) -> tuple[Tensor, Tensor]:
    """All image vectors, and for a sample the cosine between a picture and a nearly identical copy of it."""
    vectors = see(corpus.pixels)
    sample = torch.randperm(len(vectors), generator=seeded_generator(settings.seed, "near"))[:NEAR_DUPLICATES]
    copies = see(views(corpus.pixels[sample], NEAR_DUPLICATE_VIEWS, seeded_generator(settings.seed, "copies")))
    return vectors, (vectors[sample] * copies).sum(dim=1)


def _thin_out(losses: list[float], points: int = 100) -> list[tuple[int, float]]:
    stride = max(1, len(losses) // points)
    return [(i, round(losses[i], 4)) for i in [*range(0, len(losses) - 1, stride), len(losses) - 1]]
