"""Settings of annotation: the models that write the texts, how they are asked, and what counts as good."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from mmret.settings.base import Settings


class EngineSettings(Settings):
    """One language or vision-language model and how it is reached. Decoding settings are not published by the paper."""

    model: str = Field(description="name the server knows, or hub name or folder for the in-process engine")
    revision: str | None = Field(None, description="recorded with every row; the in-process engine loads it")
    urls: tuple[str, ...] = Field(
        ("http://localhost:8000/v1",), description="of servers of the same model, or where they are found"
    )
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


BackEnd = Literal["captions", "openai", "vllm"]
"""What writes texts: rules that compare captions, a server, or vLLM in the process."""


class AnnotateSettings(Settings):
    backend: BackEnd = Field("captions", description="of both steps, unless `describe` or `instruct` says otherwise")
    describe: BackEnd | None = Field(None, description="back-end of the descriptions; None: `backend`")
    instruct: BackEnd | None = Field(None, description="back-end of the instructions; None: `backend`")
    instructions_per_pair: int = Field(3, ge=3, le=10, description="at least; paper: at least three")
    seed: int = 0
    vision: EngineSettings | None = Field(None, description="the VLM that describes (paper: InternVL2-26B)")
    language_model: EngineSettings | None = Field(None, description="the LLM that instructs (paper: Llama-3-8B); None: the VLM")
    wordings: Literal["plain", "varied"] = Field(
        "plain", description="of instructions by rules: as their frames write them, or put in many other words"
    )
    one_step: bool = Field(False, description="one VLM call writes both texts")
    language: str = Field("English", description="of the texts that a model writes")
    words: tuple[int, int] = Field((60, 100), description="bounds of WORD_NUM, drawn per pair (paper)")
    demonstrations: int = Field(5, ge=0, le=50, description="drawn per call from the pool of 50 (paper)")
    attempts: int = Field(2, ge=1, description="times a model is asked anew where its answer cannot be used")
    retries: int = Field(3, ge=0, description="later runs in a row that ask again what no server answered, before it is left")
    judge: bool = Field(False, description="a further VLM call scores each pair's instructions; low ones are rejected")
    judge_minimum: int = Field(3, ge=1, le=5, description="of fidelity and of discretion")
    judge_backend: Literal["openai", "vllm"] | None = Field(
        None,
        description="what asks the VLM to judge candidates (teacher `judge`, filter `judge`); None: that of the steps, or openai "
        "where rules write the texts",
    )

    @property
    def vision_setting(self) -> str:
        """The name of the setting that :attr:`vision` comes from, as a person writes it."""
        return "annotate.vision"

    @property
    def describer(self) -> BackEnd:
        """The back-end that writes the descriptions."""
        return self.describe or self.backend

    @property
    def instructor(self) -> BackEnd:
        """The back-end that writes the instructions."""
        return self.instruct or self.backend

    @property
    def candidate_judge(self) -> BackEnd:
        """The back-end that judges candidates, by :attr:`vision`."""
        return self.judge_backend or next((b for b in (self.describer, self.instructor) if b != "captions"), "openai")

    @model_validator(mode="after")
    def _engines(self) -> AnnotateSettings:
        if self.describer != "captions" and self.vision is None:
            chosen = f"backend {self.backend}" if self.describe is None else f"describe {self.describe}"
            alone = " (annotate.describe=captions writes the descriptions by rules, without a VLM)" if self.language_model else ""
            raise ValueError(f"annotate: {chosen} needs annotate.vision.model, the VLM that looks at the pairs{alone}")
        if self.instructor != "captions" and self.vision is None and self.language_model is None:
            raise ValueError(
                f"annotate: instruct {self.instructor} needs annotate.language_model.model, the LLM that writes the instructions; "
                "a VLM it needs none"
            )
        return self

    @model_validator(mode="after")
    def _mixture(self) -> AnnotateSettings:
        if self.describer == self.instructor:
            return self
        chosen = f"annotate: describe {self.describer} with instruct {self.instructor}"
        if self.instructor == "captions":
            raise ValueError(
                f"{chosen} would pay for descriptions that nothing reads, since rules write instructions from the captions: "
                "set annotate.instruct to the model's back-end, or annotate.describe to captions"
            )
        if self.one_step:
            raise ValueError(f"{chosen} takes two steps: set annotate.one_step=false, or both to the same back-end")
        if self.judge and self.vision is None:
            raise ValueError(
                f"{chosen} has no judge: it looks at the pictures, so set annotate.vision.model to a VLM, or annotate.judge=false"
            )
        return self


class QualitySettings(Settings):
    """What is measured of a shard's texts, and from where on the asset checks warn. Shares are 0 to 1."""

    sample: int = Field(300, ge=1, description="triplets of a shard that are measured")
    gallery: int = Field(1000, ge=0, description="images, besides the mined negatives, among which the target is searched")
    max_text_alone: float = Field(0.5, ge=0, le=1, description="of targets ranked first by the instruction alone")
    max_image_alone: float = Field(0.5, ge=0, le=1, description="of targets ranked first by the query image alone")
    min_distinct_2: float = Field(0.03, ge=0, le=1, description="different word pairs over all word pairs of the texts")
    max_leakage: float = Field(0.1, ge=0, le=1, description="of texts that tell what only the source has")
    max_failed: float = Field(0.2, ge=0, le=1, description="of pairs that have no texts")
