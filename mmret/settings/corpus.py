"""Settings of what goes into a lake: sources, pictures, licences, benchmark pictures, and how long the past is kept."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from mmret.settings.base import Settings


class DownloadSettings(Settings):
    """How the pictures of a source ``urls:FILE`` are fetched (:mod:`mmret.ingest.web`). None of it changes what is computed from
    them."""

    at_once: int = Field(32, ge=1, description="pictures fetched at a time")
    seconds: float = Field(20, gt=0, description="for one picture, redirects included; a slower one is given up")
    tries: int = Field(2, ge=1, description="of a picture whose server did not answer, or is busy")
    max_bytes: int = Field(64 * 2**20, ge=1, description="a larger file is broken off")
    again_after_hours: float = Field(1, ge=0, description="what failed and may yet succeed is asked for again after so long")
    opt_out: bool = Field(True, description="leave out what its server marks noai, noimageai, noindex, noimageindex")
    inside: bool = Field(False, description="fetch from addresses inside this network too")
    user_agent: str = Field("mmret", min_length=1, description="the name that servers are told, and may address in X-Robots-Tag")


class CorpusSettings(Settings):
    sources: tuple[str, ...] = Field((), description="folders, tar files, urls:<table> or shapes:<n>?seed=<s>, in the order added")
    removed: tuple[str, ...] = Field((), description="sources taken out again; their rows are kept among the rejects")
    images: int | None = Field(None, ge=1, description="take at most this many rows of the sources; None: all")
    shard_size: int = Field(4096, ge=1, description="rows per sealed shard; affects new shards only")
    download: DownloadSettings = DownloadSettings()
    opt_out: tuple[str, ...] = Field(
        (), description="files that list pictures not to be used, by id, hash, address or path (docs/filters.md)"
    )

    @field_validator("opt_out", mode="before")
    @classmethod
    def _one_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class IngestSettings(Settings):
    max_pixels: int = Field(178_956_970, description="larger pictures are rejected as decompression bombs (Pillow's limit)")
    max_bytes: int = Field(256 * 2**20, description="larger files are rejected")
    animated: Literal["first_frame", "reject"] = "first_frame"


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


class HistorySettings(Settings):
    """How long what was replaced is kept for readers and for `--as-of`. What a checkpoint was trained on stays with it."""

    days: float = Field(7, ge=0, description="replaced partitions; 0 is only safe where nobody reads")
    bulky_days: float = Field(1, ge=0, description="replaced candidates and neighbours, and old versions of the Lance tables")
