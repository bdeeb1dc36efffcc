"""Validated settings of every stage, and how a profile file, a lake's own choices and the command line combine.

A profile is a YAML file in ``resources/profiles/``. Defaults below are the paper's values wherever the paper gives one
(arXiv 2412.14475); a field whose value the paper does not publish says so. Every stage takes its own object, never the whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmret.errors import UserError
from mmret.schemas import SIGNALS

PROFILES = Path(__file__).resolve().parents[1] / "resources" / "profiles"
Signal = Literal["clip_image", "dino_image", "caption"]


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CorpusSettings(Settings):
    sources: tuple[str, ...] = Field((), description="folders, tar files or shapes:<n>?seed=<s>, in the order they were added")
    removed: tuple[str, ...] = Field((), description="sources taken out again; their rows are kept among the rejects")
    images: int | None = Field(None, ge=1, description="take at most this many rows of the sources; None: all")
    shard_size: int = Field(4096, ge=1, description="rows per sealed shard; affects new shards only")


class IngestSettings(Settings):
    max_pixels: int = Field(178_956_970, description="larger pictures are rejected as decompression bombs (Pillow's limit)")
    max_bytes: int = Field(256 * 2**20, description="larger files are rejected")
    animated: Literal["first_frame", "reject"] = "first_frame"


class EncoderSettings(Settings):
    """One similarity model. ``kind`` names an implementation in :mod:`mmret.encode`."""

    kind: Literal["clip", "open_clip", "dinov2"]
    model: str = Field(description="name on a hub, local folder, or towers/<name> for one trained by the lake itself")
    revision: str | None = None
    batch_size: int | None = Field(None, description="None: chosen to fit memory")
    device: str = "auto"


class TowerSettings(Settings):
    """Tiny CLIP and DINOv2-shaped towers trained on the corpus itself (profile ``demo``); not in the paper."""

    image_size: int = 48
    patch_size: int = 8
    width: int = 96
    layers: int = 3
    heads: int = 4
    vocabulary: int = Field(4096, ge=514, description="entries of the byte-level tokenizer, at most")
    projection: int = 64
    epochs: int = Field(3, description="of contrastive image-caption pre-training, for a corpus of plain captions")
    dino_epochs: int = 2
    max_richness: float = Field(5.0, ge=1, description="up to so many times the epochs where captions use more words")
    min_steps: int = Field(150, ge=1, description="for a small corpus")
    max_images: int = Field(20_000, description="corpus rows used, the lowest image ids first")
    max_steps: int | None = None
    batch_size: int = Field(64, ge=2, description="small on purpose: more steps for the same work")
    learning_rate: float = 1e-3
    seed: int = 0


class BandSettings(Settings):
    """Open interval of cosine similarity that makes a neighbour a candidate target (paper, section 3.1: 0.8 to 0.96)."""

    low: float = Field(0.8, ge=-1, le=1)
    high: float = Field(0.96, ge=-1, le=1.01)

    @model_validator(mode="after")
    def _ordered(self) -> BandSettings:
        if self.low >= self.high:
            raise ValueError(f"band: low {self.low} must be below high {self.high}")
        return self


class IndexSettings(Settings):
    """How neighbours are searched: exactly, or through LanceDB's index once the corpus is large (docs/neighbours.md)."""

    kind: Literal["exact", "ivf_rq", "ivf_pq"] = Field("exact", description="exact compares every pair; the others are approximate")
    from_rows: int = Field(1_000_000, ge=1, description="images from which on the index is used; below it mining stays exact")
    bits: int = Field(4, ge=1, le=8, description="per component of the compressed vectors")
    partition_rows: int = Field(4096, ge=64, description="vectors in a partition of the index")
    probes: int = Field(32, ge=1, description="partitions a search looks into")
    fetch: int = Field(4, ge=1, description="results asked for and scored exactly, times k")
    checked: int = Field(256, ge=1, description="images whose neighbours are also searched exactly, to measure the recall")
    recall_floor: float = Field(0.95, ge=0, le=1, description="in-band recall below which the asset check fails")


class MineSettings(Settings):
    k: int = Field(50, ge=1, description="neighbours kept per image and signal inside the band; not published")
    bands: dict[Signal, BandSettings | Literal["proposed"]] = Field(
        default_factory=lambda: {s: BandSettings() for s in SIGNALS},
        description="'proposed': for this encoder, from the lake's towers or its oldest shard",
    )
    signals: tuple[Signal, ...] = SIGNALS
    targets_per_query: int = Field(3, ge=1, description="pairs per query image at most; not published (mean in the paper: 1.31)")
    hard_negatives: int = Field(5, ge=0, description="mined negatives kept per pair (paper: five, the query image counted)")
    tile: int = Field(4096, ge=64, description="rows per side of a similarity tile; bounds the memory")
    index: IndexSettings = IndexSettings()
    seed: int = 0
    device: str = "auto"


class EngineSettings(Settings):
    """One language or vision-language model and how it is reached. Decoding settings are not published by the paper."""

    model: str = Field(description="name the server knows, or hub name or folder for the in-process engine")
    revision: str | None = Field(None, description="recorded with every row; the in-process engine loads it")
    urls: tuple[str, ...] = Field(("http://localhost:8000/v1",), description="of one or more servers of the same model")
    api_key_variable: str = Field("OPENAI_API_KEY", description="environment variable that holds the key, if any")
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.9, gt=0, le=1)
    max_tokens: int = Field(512, ge=16)
    structured: bool = Field(True, description="ask for JSON by schema; turned off where a server refuses it")
    image_size: int = Field(448, ge=28, description="pictures are shrunk to this longer side, in pixels")
    image_quality: int = Field(90, ge=1, le=100, description="of the JPEG they are sent as")
    concurrency: int = Field(32, ge=1, description="requests in flight per server")
    timeout_s: float = Field(60, gt=0, description="of one try")
    deadline_s: float = Field(240, gt=0, description="of a request with all its tries")
    tries: int = Field(6, ge=1)
    max_answer_bytes: int = Field(2**20, ge=1024, description="a longer response is cut off and not used")
    engine: dict[str, Any] = Field(default_factory=dict, description="arguments of vllm.LLM, e.g. tensor_parallel_size")
    price_in: float = Field(0, ge=0, description="per million tokens, any currency")
    price_out: float = Field(0, ge=0)


class AnnotateSettings(Settings):
    backend: Literal["captions", "openai", "vllm"] = "captions"
    instructions_per_pair: int = Field(3, ge=3, le=10, description="at least; paper: at least three")
    seed: int = 0
    vision: EngineSettings | None = Field(None, description="the VLM that describes (paper: InternVL2-26B)")
    language_model: EngineSettings | None = Field(None, description="the LLM that instructs (paper: Llama-3-8B); None: the VLM")
    one_step: bool = Field(False, description="one VLM call writes both texts")
    language: str = Field("English", description="of the texts that a model writes")
    words: tuple[int, int] = Field((60, 100), description="bounds of WORD_NUM, drawn per pair (paper)")
    demonstrations: int = Field(5, ge=0, le=50, description="drawn per call from the pool of 50 (paper)")
    attempts: int = Field(2, ge=1, description="times a model is asked anew where its answer cannot be used")
    retries: int = Field(3, ge=0, description="later runs in a row that ask again what no server answered, before it is left")
    judge: bool = Field(False, description="a further VLM call scores each pair's instructions; low ones are rejected")
    judge_minimum: int = Field(3, ge=1, le=5, description="of fidelity and of discretion")

    @model_validator(mode="after")
    def _engines(self) -> AnnotateSettings:
        if self.backend != "captions" and self.vision is None:
            raise ValueError(f"annotate: backend {self.backend} needs annotate.vision.model, the VLM that looks at the pairs")
        return self


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


HOW_A_RECIPE_RUNS = frozenset(
    {"as_of", "checkpoint_every", "log_every", "evaluate_every", "held_out_queries", "processes", "outside"}
)
"""Fields of a recipe that change no weight: another value makes no other checkpoint."""


class QualitySettings(Settings):
    """What is measured of a shard's texts, and from where on the asset checks warn. Shares are 0 to 1."""

    sample: int = Field(300, ge=1, description="triplets of a shard that are measured")
    gallery: int = Field(1000, ge=0, description="images, besides the mined negatives, among which the target is searched")
    max_text_alone: float = Field(0.5, ge=0, le=1, description="of targets ranked first by the instruction alone")
    max_image_alone: float = Field(0.5, ge=0, le=1, description="of targets ranked first by the query image alone")
    min_distinct_2: float = Field(0.03, ge=0, le=1, description="different word pairs over all word pairs of the texts")
    max_leakage: float = Field(0.1, ge=0, le=1, description="of texts that tell what only the source has")
    max_failed: float = Field(0.2, ge=0, le=1, description="of pairs that have no texts")


class Recipe(Settings):
    """One training run described by data. Defaults are MMRet base's (paper, section 4 and appendix)."""

    kind: Literal["clip", "mllm"] = "clip"
    base: str = Field("towers/clip", description="folder or hub name the run starts from; towers/<name>: of the lake")
    signals: tuple[Signal, ...] = SIGNALS
    negatives: Literal["none", "query", "query+mined"] = "query+mined"
    mined_negatives: int = Field(3, ge=0, description="per query, besides the query image (paper: 4 in all)")
    pair_source: Literal["mined", "naive"] = Field(
        "mined",
        description="mined: the lake's triplets; naive: random images whose captions share a word, instructed from both "
        "captions, without mined negatives (what the headline study compares mining with)",
    )
    pairs: int | None = Field(None, ge=1, description="train on this many pairs; None: all")
    decisions: Literal["ignore", "without_rejected", "only_accepted"] = Field(
        "ignore", description="whether triplets that people rejected are left out, or all that nobody accepted"
    )
    licence_set: Literal["main", "unknown", "no_derivatives", "non_commercial", "share_alike"] = Field(
        "main", description="which of the sets that `licences` keeps apart is trained on"
    )
    as_of: str | None = Field(None, description="train on the lake as it was: a checkpoint, a run or a time; None: as it is")
    trainable: Literal["all", "text+blocks", "text+projection", "text"] = Field(
        "all", description="what of the image tower is trained with the text tower; the rest is computed once per image"
    )
    image_blocks: int = Field(1, ge=1, description="of text+blocks: how many blocks at the end of the image tower")
    steps: int = Field(15_000, ge=1)
    batch_size: int = Field(2048, ge=2)
    chunk_size: int | None = Field(None, ge=1, description="images or texts in one forward pass; None: chosen to fit memory")
    learning_rate: float = Field(5e-6, gt=0, description="decays linearly to zero")
    text_learning_rate: float | None = Field(None, gt=0, description="of the text tower; None: learning_rate")
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
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16: mixed, weights under training stay float32")
    gradient_checkpointing: bool = Field(False, description="recompute each layer's activations: less memory, a third more time")
    compile: Literal["inductor", "aot_eager", "eager"] | None = Field(None, description="back-end of torch.compile; None: off")
    lora: LoraSettings = Field(LoraSettings(), description="of kind mllm")
    instruction: str = Field(
        "Retrieve the target image that best meets the combined criteria by using both the provided image and the image retrieval "
        "instructions: ",
        description="of kind mllm: the task in every query (paper: its CIR instruction)",
    )
    checkpoint_every: int = Field(200, ge=1, description="steps between the states a killed run continues from")
    log_every: int = Field(10, ge=1)
    evaluate_every: int | None = Field(None, ge=1, description="steps between measurements on a held-out slice; None: none")
    held_out_queries: int = Field(200, ge=1, description="of that slice, at most; its images are the gallery")
    processes: int = Field(1, ge=1, description="one per GPU, started by torchrun; batch_size is that of all together")
    outside: bool = Field(False, description="train in a process of its own, whose memory is free when it ends")
    seed: int = 0

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Recipe:
        if self.pair_source == "naive" and (self.pairs is None or self.negatives == "query+mined"):
            raise ValueError("naive pairs need a number, pairs, and have no mined negatives: set negatives to query or none")
        if self.kind == "mllm" and self.trainable != "all":
            raise ValueError(f"trainable '{self.trainable}' is of kind clip; what an mllm trains is said by lora.target_modules")
        if self.processes > 1 and not self.outside:
            raise ValueError(f"{self.processes} processes need outside: true")
        if self.processes > self.batch_size:
            raise ValueError(f"{self.processes} processes cannot share a batch of {self.batch_size}")
        return self


class StudySettings(Settings):
    """The paper's ablations and scaling study, and its headline, as recipes (:mod:`mmret.studies.designs`)."""

    recipe: str = Field(description="the recipe of this profile that every variant starts from")
    change: dict[str, Any] = Field({}, description="settings of that recipe that differ in the studies, for example fewer steps")
    seeds: int = Field(3, ge=1, description="runs of each variant: order, texts, negatives and the subset of pairs are drawn anew")
    pairs: int = Field(ge=16, description="of the negatives study and the largest of the scaling study (paper: 1 M)")
    volume: dict[str, Any] = Field(
        {},
        description="settings that differ in the scaling study and the headline too, such "
        "as more steps: a run has to see its pairs",
    )
    shares: tuple[float, ...] = Field((1 / 16, 1 / 4, 1), description="of pairs, in the scaling study")
    signal_pairs: int = Field(ge=1, description="of every variant of the signals study, alone and together")
    headline_pairs: int = Field(ge=1, description="n mined triplets, against times * n naive pairs")
    times: int = Field(70, ge=1, description="paper: 0.5 M mined pairs beat MagicLens on 36.7 M")
    benchmark: str = "held-out edits"
    metric: str = "R@10"


class EvaluateSettings(Settings):
    held_out: float = Field(0.03, ge=0, lt=1, description="share of query images whose triplets are never trained on")
    max_queries: int = 2000
    edits: int = Field(1000, description="held-out edits drawn on a shapes corpus")


class LeakSettings(Settings):
    """Pictures that must not be trained on, because a benchmark is measured with them."""

    benchmarks: dict[str, str] = Field(
        {},
        description="benchmark name to the folder of its pictures; what the corpus shares "
        "with them is listed in table leaks and kept out of pairs",
    )


class LicenceSettings(Settings):
    """Which triplets are used together, by their pictures' licences (:mod:`mmret.curation.licences`); honoured by training and
    exports.

    ``keep``: like any other; ``apart``: in a set of its own, named after the term; ``exclude``: not used. Stricter terms go first.
    """

    exclude: tuple[str, ...] = Field((), description="SPDX ids never used, * for any ending, for example CC-BY-NC*")
    unknown: Literal["keep", "apart", "exclude"] = Field("keep", description="none given, unreadable or reserved")
    no_derivatives: Literal["keep", "apart", "exclude"] = "keep"
    non_commercial: Literal["keep", "apart", "exclude"] = "keep"
    share_alike: Literal["keep", "apart", "exclude"] = "keep"

    def keeps_all(self) -> bool:
        """Whether nothing is parted or left out."""
        return self == LicenceSettings()


class AutomationSettings(Settings):
    """What the sensors of the Dagster UI wait for; `mmret run` waits for nothing."""

    settle_seconds: int = Field(60, ge=0, description="a watched source is sealed once it has not changed for so long")
    new_pairs: int = Field(
        10_000,
        ge=1,
        description="training starts by itself once there are so many triplets that the last checkpoint of the recipe has not seen",
    )


class HistorySettings(Settings):
    """How long what was replaced is kept for readers and for `--as-of`. What a checkpoint was trained on stays with it."""

    days: float = Field(7, ge=0, description="replaced partitions; 0 is only safe where nobody reads")
    bulky_days: float = Field(1, ge=0, description="replaced candidates and neighbours, and old versions of the Lance tables")


class Profile(Settings):
    name: str
    description: str = ""
    corpus: CorpusSettings = CorpusSettings()
    ingest: IngestSettings = IngestSettings()
    leaks: LeakSettings = LeakSettings()
    licences: LicenceSettings = LicenceSettings()
    history: HistorySettings = HistorySettings()
    towers: TowerSettings | None = None
    encoders: dict[Signal, EncoderSettings]
    mine: MineSettings = MineSettings()
    annotate: AnnotateSettings = AnnotateSettings()
    quality: QualitySettings = QualitySettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    recipes: dict[str, Recipe]
    studies: StudySettings | None = Field(None, description="recipes are added for them: study-<study>-<variant>-<seed>")
    automation: AutomationSettings = AutomationSettings()
    train: tuple[str, ...] = Field((), description="recipes that `mmret run` trains; the others wait to be asked for")
    threads: int | None = Field(None, description="CPU threads of torch; None: as many as there are cores")

    @model_validator(mode="before")
    @classmethod
    def _with_studies(cls, data: Any) -> Any:
        from mmret.studies.designs import with_recipes

        return with_recipes(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _complete(self) -> Profile:
        if missing := [s for s in SIGNALS if s not in self.encoders]:
            raise ValueError(f"encoders: no model for {', '.join(missing)}")
        if unknown := [r for r in self.train if r not in self.recipes]:
            raise ValueError(f"train: no recipe called {', '.join(unknown)}; there are {', '.join(self.recipes)}")
        return self


def profile_names() -> list[str]:
    return sorted(p.stem for p in PROFILES.glob("*.yaml"))


def load_profile(name: str, overrides: dict[str, Any] | None = None) -> Profile:
    """Read profile ``name`` (a name in ``resources/profiles`` or a path to a YAML file) and apply dotted overrides.

    Raises UserError naming the key, for an unknown profile or key or a value out of range.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"no profile '{name}': there are {', '.join(profile_names())}, or give the path of a YAML file")
    try:
        data = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"profile {path} is not valid YAML: {error}") from None
    data = {"name": path.stem, **data}
    for key, value in (overrides or {}).items():
        _set(data, key, value)
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise UserError("settings that do not fit:\n" + "\n".join(lines)) from None


def parse_override(text: str) -> tuple[str, Any]:
    """``"mine.k=20"`` to ``("mine.k", 20)``; the value is read as YAML."""
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise UserError(f"--set {text}: expected key=value, for example mine.k=20")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"--set {text}: the value is not valid YAML") from None


def _set(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise UserError(f"--set {dotted}: '{parent}' has no keys of its own")
    data[last] = value
