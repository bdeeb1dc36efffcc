"""Settings of mining: bands of similarity, how neighbours are searched, and which of them become pairs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mmret.schemas import SIGNALS
from mmret.settings.base import Settings, Signal


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


class DuplicateSettings(Settings):
    """Which pictures are near-duplicates of each other (table ``duplicates``)."""

    signals: tuple[Signal, ...] = Field(("clip_image", "dino_image"), min_length=1, description="similarities that are asked")
    agree: int = Field(
        2, ge=1, description="how many of them must place two pictures above their band; with 1 groups grow by chance links"
    )

    @model_validator(mode="after")
    def _can_agree(self) -> DuplicateSettings:
        if self.agree > len(set(self.signals)):
            raise ValueError(f"agree {self.agree} of {len(set(self.signals))} signals: name more signals, or ask for fewer")
        return self


class MineSettings(Settings):
    k: int = Field(50, ge=1, description="neighbours kept per image and signal inside the band; not published")
    bands: dict[Signal, BandSettings | Literal["proposed"]] = Field(
        default_factory=lambda: {s: BandSettings() for s in SIGNALS},
        description="'proposed': for this encoder, from the lake's towers or its oldest shard",
    )
    signals: tuple[Signal, ...] = SIGNALS
    targets_per_query: int = Field(3, ge=1, description="pairs per query image at most; not published (mean in the paper: 1.31)")
    draw: Literal["together", "by_signal"] = Field(
        "together",
        description="how targets are drawn among a query's near candidates: from those of all signals together, or the signals in "
        "turn, so that each kind of similarity has its share; not published",
    )
    hard_negatives: int = Field(5, ge=0, description="mined negatives kept per pair (paper: five, the query image counted)")
    duplicates: Literal["keep", "one_of_group"] = Field(
        "keep", description="'one_of_group': of near-duplicates (table duplicates) only the oldest is in pairs and their negatives"
    )
    tile: int = Field(4096, ge=64, description="rows per side of a similarity tile; bounds the memory")
    index: IndexSettings = IndexSettings()
    seed: int = 0
    device: str = "auto"
