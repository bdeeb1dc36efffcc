"""Settings of training and evaluation: a recipe is one training run described by data."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mmret.schemas import SIGNALS
from mmret.settings.base import Settings, Signal
from mmret.settings.ingredients import Ingredients
from mmret.tasks import COMPOSED, TASK_NAMES, TASKS, TaskName


class LoraSettings(Settings):
    """Low-rank adapters of an MLLM, through peft (paper: rank 32 on the ViT and the LLM; the rest is not published)."""

    rank: int = Field(32, ge=1)
    alpha: float = Field(64, gt=0, description="updates are scaled by alpha / rank; not published")
    dropout: float = Field(0.0, ge=0, lt=1, description="before the adapters; not published")
    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description="names, or one regular expression; all-linear: every linear layer but the output head"
    )
    exclude_modules: str | None = Field(
        r".*(multi_modal_projector|merger).*", description="regular expression of what is left out: the paper names ViT, LLM"
    )


class RerankerSettings(Settings):
    """What kind ``reranker`` has besides. The first four are of a cross-encoder over CLIP's towers; an MLLM needs none of them."""

    layers: int = Field(2, ge=1, description="blocks over the tokens of query and candidate")
    heads: int = Field(4, ge=1, description="of attention in each block")
    width: int | None = Field(None, ge=1, description="of those blocks; None: the image tower's")
    grid: int = Field(7, ge=1, description="a picture's patches are averaged to so many in rows and columns, where it has more")
    first_hits: int = Field(
        0, ge=0, description="so many first hits of `retriever` stand in for the mined hard negatives; 0: the mined ones"
    )
    in_batch: int = Field(4, ge=0, description="targets of other rows that each row's candidates are joined by")


RECIPE_RUNTIME_FIELDS = frozenset(
    {
        "as_of",
        "checkpoint_every",
        "log_every",
        "evaluate_every",
        "held_out_queries",
        "processes",
        "outside",
        "retriever",
        "parallel",
        "workers",
        "worker_cpus",
        "keep_activations",
    }
)
"""Fields of a recipe that change no weight: another value makes no other checkpoint."""


_ADDED_LATER = frozenset(
    {"matrix_learning_rate", "matryoshka", "tasks", "task_batches", "reranker", "teacher", "distillation", "teacher_temperature"}
) | set(Ingredients.model_fields)


class Recipe(Ingredients):
    """One training run described by data. Defaults are MMRet base's (paper, section 4 and appendix)."""

    kind: Literal["clip", "mllm", "reranker"] = Field("clip", description="a retriever of either kind, or a cross-encoder")
    base: str = Field("towers/clip", description="folder or hub name the run starts from; towers/<name>: of the lake")
    signals: tuple[Signal, ...] = SIGNALS
    negatives: Literal["none", "query", "mined", "query+mined"] = Field(
        "query+mined", description="hard negatives besides the rest of a batch: the query image, mined ones, both or none"
    )
    mined_negatives: int = Field(3, ge=0, description="per query, where negatives has mined ones (paper: 4 with the query image)")
    pair_source: Literal["mined", "naive"] = Field(
        "mined",
        description="mined: the lake's triplets; naive: random images whose captions share a word, instructed from both "
        "captions, without mined negatives (what the headline study compares mining with)",
    )
    tasks: dict[TaskName, float] = Field(
        {COMPOSED: 1.0},
        description="the kinds of query that are trained on, each with its weight, its share of the steps or of every batch; "
        "composed alone, as in the paper",
    )
    task_batches: Literal["one", "mixed"] = Field(
        "one",
        description="one: a batch is of one task, and the steps take turns; mixed: every batch has all tasks in proportion",
    )
    pairs: int | None = Field(None, ge=1, description="train on this many pairs; None: all")
    decisions: Literal["ignore", "without_rejected", "only_accepted"] = Field(
        "ignore", description="whether triplets that people rejected are left out, or all that nobody accepted"
    )
    licence_set: Literal["main", "unknown", "no_derivatives", "non_commercial", "share_alike"] = Field(
        "main", description="which of the sets that `licences` keeps apart is trained on"
    )
    as_of: str | None = Field(None, description="train on the lake as it was: a checkpoint, a run or a time; None: as it is")
    trainable: Literal["all", "text+blocks", "text+projection", "text", "above"] = Field(
        "all",
        description="what of the image tower is trained with the text tower; the rest is computed once per image. above: of a "
        "reranker, only its blocks above the towers",
    )
    image_blocks: int = Field(1, ge=1, description="of text+blocks: how many blocks at the end of the image tower")
    steps: int = Field(15_000, ge=1)
    batch_size: int = Field(2048, ge=2)
    chunk_size: int | None = Field(None, ge=1, description="images or texts in one forward pass; None: chosen to fit memory")
    learning_rate: float = Field(5e-6, gt=0, description="decays linearly to zero")
    text_learning_rate: float | None = Field(None, gt=0, description="of the text tower; None: learning_rate")
    matrix_learning_rate: float | None = Field(
        None,
        gt=0,
        description="of Muon, for the matrices inside the blocks of a clip's towers; None: AdamW trains everything, as the paper "
        "may have done",
    )
    warmup_steps: int = Field(0, ge=0, description="not published")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW; the optimiser is not published")
    max_grad_norm: float | None = Field(1.0, gt=0, description="gradients are clipped to this norm; not published")
    temperature: float = Field(0.02, gt=0)
    mask_false_negatives: bool = Field(True, description="another row's copy of a query's target is no negative of it")
    several_positives: bool = Field(True, description="rows of one query image and one text share their targets as positives")
    hardness: float = Field(
        0.0,
        ge=0,
        description="weight negatives by exp(hardness * cosine), without a gradient through it "
        "(LLaVE, arXiv 2503.04812, which takes 9); 0: off, as in the paper",
    )
    matryoshka: tuple[int, ...] = Field(
        (),
        description="train the first so many dimensions of a vector as vectors of their own too, ascending (Matryoshka "
        "representation learning, arXiv 2205.13147); none: only whole vectors, as in the paper",
    )
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16: mixed, weights under training stay float32")
    gradient_checkpointing: bool = Field(False, description="recompute each layer's activations: less memory, a third more time")
    compile: Literal["inductor", "aot_eager", "eager"] | None = Field(None, description="back-end of torch.compile; None: off")
    lora: LoraSettings = Field(LoraSettings(), description="of kind mllm")
    reranker: RerankerSettings = Field(RerankerSettings(), description="of kind reranker")
    teacher: str | None = Field(
        None,
        description="what a retriever learns from besides: a recipe, a reranker's or a retriever's; judge, the model of "
        "annotate.vision; scores/NAME, brought by `mmret teach --scores`; None: of none",
    )
    distillation: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="weight of what the teacher says, beside the loss's own 1; 0: it only limits the hard negatives",
    )
    teacher_temperature: float = Field(1.0, gt=0, allow_inf_nan=False, description="that its scores are divided by")
    retriever: str | None = Field(
        None,
        description="of kind reranker: the recipe whose first hits it is measured on, and trained on where reranker.first_hits is "
        "set; None: the first that is trained",
    )
    instruction: str = Field(
        "Retrieve the target image that best meets the combined criteria by using both the provided image and the image retrieval "
        "instructions: ",
        description="of kind mllm: the task in every query (paper: its CIR instruction)",
    )
    keep_activations: Literal["auto", "never", "always"] = Field(
        "auto",
        description="whether chunks of a step keep their activations until their gradient is there, instead of a second forward "
        "pass; auto: as many as a third of the free memory holds. The weights are the same",
    )
    checkpoint_every: int = Field(200, ge=1, description="steps between the states a killed run continues from")
    log_every: int = Field(10, ge=1)
    evaluate_every: int | None = Field(None, ge=1, description="steps between measurements on a held-out slice; None: none")
    held_out_queries: int = Field(200, ge=1, description="of that slice, at most; its images are the gallery")
    processes: int = Field(1, ge=1, description="one per GPU, started by torchrun; batch_size is that of all together")
    parallel: Literal["sum", "ddp", "fsdp"] = Field(
        "sum",
        description="how several processes make one gradient: our own sum, torch's DDP, or FSDP2, which divides the model too",
    )
    workers: int | None = Field(
        None, ge=1, description="processes on a Ray cluster, one per GPU where it has some; None: none, this machine trains"
    )
    worker_cpus: int = Field(1, ge=1, description="CPUs, and threads, of each of those")
    outside: bool = Field(False, description="train in a process of its own, whose memory is free when it ends")
    seed: int = 0

    @field_validator("tasks", mode="before")
    @classmethod
    def _known_tasks(cls, tasks: Any) -> Any:
        if not isinstance(tasks, dict) or not tasks:
            raise ValueError(f"tasks is {tasks!r}: give weights by task, such as {{composed: 0.6, text_to_image: 0.4}}")
        if unknown := [str(name) for name in tasks if name not in TASK_NAMES]:
            raise ValueError(f"tasks has {', '.join(unknown)}, and there are {', '.join(TASK_NAMES)}")
        for name, weight in tasks.items():
            if not isinstance(weight, int | float) or isinstance(weight, bool) or not (0 < weight < math.inf):
                raise ValueError(
                    f"tasks gives {name} the weight {weight!r}: a weight is a number above 0; leave a task out to do without"
                )
        return tasks if len(tasks) > 1 else dict.fromkeys(tasks, 1.0)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Recipe:
        if self.pair_source == "naive" and set(self.tasks) != {COMPOSED}:
            others = ", ".join(name for name in self.tasks if name != COMPOSED)
            raise ValueError(f"naive pairs are of task composed alone: leave {others} out of tasks, or set pair_source to mined")
        if self.trainable == "text" and "image_to_image" in self.tasks:
            raise ValueError(
                "image_to_image trains nothing where trainable is 'text': leave it out of tasks, or train a projection"
            )
        if self.pair_source == "naive" and self.batch_neighbours > 1:
            raise ValueError("naive pairs are of no neighbours: leave batch_neighbours out, or set pair_source to mined")
        if self.filters:
            self._fits_its_filters()
        if self.batch_neighbours > self.batch_size:
            raise ValueError(
                f"batch_neighbours is {self.batch_neighbours} and batch_size {self.batch_size}: lower it, groups are parts"
            )
        if self.texts_at_once != "one" and not any("text" in TASKS[name].query for name in self.tasks):
            raise ValueError(f"texts_at_once shows texts, and queries of {', '.join(self.tasks)} have none: leave it out")
        if self.pair_source == "naive" and (self.pairs is None or "mined" in self.negatives):
            raise ValueError("naive pairs need a number, pairs, and have no mined negatives: set negatives to query or none")
        if self.kind == "mllm" and self.trainable != "all":
            raise ValueError(f"trainable '{self.trainable}' is of kind clip; what an mllm trains is said by lora.target_modules")
        if self.kind == "mllm" and self.matrix_learning_rate is not None:
            raise ValueError("matrix_learning_rate is of kind clip: adapters are trained by AdamW")
        if self.swapped_texts and self.kind == "mllm":
            raise ValueError("swapped_texts puts texts beside pictures as sums, and a query of kind mllm is no sum: set it to 0")
        if self.kind == "clip" and self.trainable == "above":
            raise ValueError("trainable 'above' is of kind reranker: a clip has nothing above its towers")
        if self.kind == "reranker":
            self._fits_a_reranker()
        else:
            self._fits_a_retriever()
        if any(d < 1 for d in self.matryoshka) or sorted(set(self.matryoshka)) != list(self.matryoshka):
            raise ValueError(f"matryoshka has {list(self.matryoshka)}: give ascending numbers of dimensions, each once, from 1 on")
        if self.parallel == "fsdp" and self.kind == "reranker":
            raise ValueError("parallel 'fsdp' is of retrievers: set it to ddp or sum for a reranker")
        if self.parallel == "fsdp" and self.matrix_learning_rate is not None:
            raise ValueError("matrix_learning_rate needs whole matrices, which parallel 'fsdp' divides: set parallel to ddp or sum")
        if self.parallel == "fsdp" and self.compile:
            raise ValueError("compile and parallel 'fsdp' do not go together: leave compile out, or set parallel to ddp or sum")
        if self.workers and self.processes > 1:
            raise ValueError(
                f"workers are of a Ray cluster, processes of this machine: leave one out (processes is {self.processes})"
            )
        if self.workers and self.workers > self.batch_size:
            raise ValueError(f"{self.workers} workers cannot share a batch of {self.batch_size}")
        if self.processes > 1 and not self.outside:
            raise ValueError(f"{self.processes} processes need outside: true")
        if self.processes > self.batch_size:
            raise ValueError(f"{self.processes} processes cannot share a batch of {self.batch_size}")
        return self

    def _fits_its_filters(self) -> None:
        if self.pair_source == "naive":
            raise ValueError("filters look at mined triplets: leave filters out, or set pair_source to mined")
        if COMPOSED not in self.tasks:
            raise ValueError("filters look at rows of task composed: add composed to tasks, or leave filters out")
        if "false_negatives" in self.filters and "mined" not in self.negatives:
            raise ValueError(
                "false_negatives looks at mined hard negatives: leave it out of filters, or set negatives to query+mined"
            )
        if "false_negatives" in self.filters and self.kind == "reranker" and self.reranker.first_hits:
            raise ValueError("false_negatives looks at mined hard negatives, which reranker.first_hits replaces: leave one out")

    def _fits_a_retriever(self) -> None:
        if self.reranker != RerankerSettings():
            raise ValueError(
                f"the settings `reranker` are of kind reranker, and this recipe is of kind {self.kind}: leave them out"
            )
        if self.retriever is not None:
            raise ValueError("`retriever` is of kind reranker, which orders its hits: leave it out of a retriever's recipe")
        if self.teacher is not None and COMPOSED not in self.tasks:
            raise ValueError("a teacher scores rows of task composed: add composed to tasks, or leave teacher out")
        if self.teacher is not None and self.negatives == "none":
            raise ValueError(
                "a teacher says how much better a target is than its hard negatives, of which negatives 'none' has none: "
                "set negatives to query+mined, or leave teacher out"
            )
        if self.teacher is not None and not self.distillation:
            if self.negative_margin is None:
                raise ValueError("distillation 0 uses the teacher for nothing: set negative_margin, or leave teacher out")
            self._needs_default(("teacher_temperature",), "is of distillation, which is 0: leave it out")
        if self.negative_margin is not None and "mined" not in self.negatives:
            raise ValueError(f"negative_margin is of mined negatives, of which negatives '{self.negatives}' has none: leave it out")
        if self.teacher is None:
            says = "says how a teacher is learnt from: name one in `teacher`"
            self._needs_default(("distillation", "teacher_temperature", "negative_margin"), says)

    def _needs_default(self, names: tuple[str, ...], reason: str) -> None:
        for name in names:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} {reason}")

    def _fits_a_reranker(self) -> None:
        vectors = "is of retrievers, which compare vectors; a reranker's scores are trained as they are"
        losses = ("temperature", "hardness", "matryoshka", "mask_margin", "texts_at_once", "agreement", "reverse", "swapped_texts")
        self._needs_default(losses, vectors)
        self._needs_default(("compile",), "is of retrievers: a reranker is trained uncompiled; leave it out")
        if set(self.tasks) != {COMPOSED}:
            raise ValueError("a reranker is trained on task composed alone: leave tasks out")
        if self.teacher is not None:
            raise ValueError("a reranker has no teacher: retrievers learn from one")
        teaching = ("distillation", "teacher_temperature", "negative_margin")
        self._needs_default(teaching, "is of retrievers, which learn from a teacher")
        if self.reranker.first_hits and self.retriever is None:
            raise ValueError("reranker.first_hits are hits of a retriever: name its recipe in `retriever`")
        if self.trainable == "text+projection":
            raise ValueError("trainable 'text+projection' is of retrievers: a reranker reads tokens, not projections; take 'text'")
        if self.negatives == "none" and not self.reranker.in_batch:
            raise ValueError("a reranker without negatives and with reranker.in_batch 0 has nothing to tell a target from")

    def first_hits_of(self) -> str | None:
        """The retriever whose first hits are the hard negatives of this reranker; None where they are the mined ones."""
        return self.retriever if self.kind == "reranker" and self.reranker.first_hits else None

    def shares(self) -> dict[TaskName, float]:
        """The tasks in their order, with weights that add up to 1.

        >>> Recipe(tasks={"text_to_image": 1, "composed": 3}).shares()
        {'composed': 0.75, 'text_to_image': 0.25}
        """
        # exact: a mixture has the same shares however its weights are written
        weights = {name: Fraction(str(self.tasks[name])) for name in TASK_NAMES if name in self.tasks}
        total = sum(weights.values())
        return {name: float(weight / total) for name, weight in weights.items()}

    def decisive(self) -> dict[str, Any]:
        """The fields that decide the weights, as plain values, ``tasks`` as shares.

        Those that were added later are left out while they have the value that recipes had before, so that older checkpoints stay
        current."""
        values = self.model_dump(exclude=set(RECIPE_RUNTIME_FIELDS)) | {"tasks": self.shares()}
        usual = type(self).model_construct().model_dump(include=set(_ADDED_LATER))
        return {k: v for k, v in values.items() if k not in usual or v != usual[k]}


class EvaluateSettings(Settings):
    held_out: float = Field(0.03, ge=0, lt=1, description="share of query images whose triplets are never trained on")
    max_queries: int = 2000
    edits: int = Field(1000, description="held-out edits drawn on a shapes corpus")
    rerank_depth: int = Field(50, ge=1, description="hits of the retriever that a reranker is measured on")
    texts: int = Field(20_000, ge=1, description="captions searched in, at most: drawn by hash, besides those that are right")
    captioned_pictures: int = Field(
        2000, ge=1, description="pictures searched in together with their captions, at most: a tower pass of their own"
    )
    robustness: int = Field(
        300, ge=0, description="held-out queries asked in other wordings and with two pictures, of each kind; 0: none is measured"
    )
    max_spread: float = Field(
        0.4, ge=0, le=1, description="of queries found by some wording and not by all, above which an asset check warns"
    )
    max_negatives_first: float = Field(
        0.4, ge=0, le=1, description="of queries with a hard negative before the target, above which an asset check warns"
    )
