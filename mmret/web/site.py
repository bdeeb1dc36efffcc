"""The objects that all pages share, opened once: the lake's tables, thumbnails, searches, uploads and the log of decisions."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmret.curation.decisions import DecisionLog
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.search.search import Searcher
from mmret.settings import Profile
from mmret.web.pictures import Thumbnails
from mmret.web.search_progress import SearchProgress
from mmret.web.tables import Tables
from mmret.web.uploads import Uploads


@dataclass(frozen=True)
class Site:
    """One lake, read by many threads, pictures that visitors gave, and the log of this session's decisions."""

    lake: Lake
    tables: Tables
    thumbnails: Thumbnails
    searches: SearchProgress
    log: DecisionLog
    uploads: Uploads = field(default_factory=Uploads)


def open_site(lake: Lake, profile: Profile, reviewer: str | None = None) -> Site:
    """Open ``lake``; ``profile`` are its settings, ``reviewer`` signs decisions. Raises UserError where there is no lake."""
    tables = Tables(lake)
    tables.cursor()
    images_by_id(lake, ["0"])  # Lance is imported and the table opened before anybody waits for it
    return Site(lake, tables, Thumbnails(lake), SearchProgress(Searcher(lake, profile)), DecisionLog(lake, reviewer))
