"""Which settings a lake runs with: its profile, the sources added so far and the values overridden, kept in ``lake.yaml``.

So ``mmret run --lake L`` continues what was begun, the same lake opened in the Dagster UI has the same settings, and a
second ``--images`` adds to the corpus instead of replacing it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmret.errors import UserError
from mmret.lake.store import Lake
from mmret.settings import Profile, load_profile

DEFAULT_PROFILE = "demo"


def source_name(source: str) -> str:
    """A source as it is recorded: built-in corpora as given, files and folders as absolute paths."""
    return source if re.match(r"^shapes:", source) else str(Path(source).expanduser().resolve())


def resolve(
    lake: Lake,
    profile: str | None = None,
    sources: Sequence[str] = (),
    shard_size: int | None = None,
    overrides: dict[str, Any] | None = None,
    remove: Sequence[str] = (),
    imports: Sequence[str] = (),
) -> tuple[Profile, dict[str, Any]]:
    """Combine what the lake remembers with what is asked for now; returns the settings and what to remember.

    Raises UserError where the profile differs from the one the lake was made with: that would silently re-encode everything,
    and for a source to ``remove`` that the lake does not have.
    """
    old = lake.choices()
    name = profile or old.get("profile") or DEFAULT_PROFILE
    if old and name != old["profile"]:
        raise UserError(
            f"{lake.root} was made with profile '{old['profile']}', not '{name}'. Use another --lake, "
            f"or change 'profile' in {lake.choices_path} yourself to have its stages computed again."
        )
    kept = [*old.get("sources", [])]
    kept += [s for s in map(source_name, sources) if s not in kept]
    choices = {"profile": name, "sources": kept, "overrides": {**old.get("overrides", {}), **(overrides or {})}}
    if shard_size is not None:
        choices["overrides"]["corpus.shard_size"] = shard_size
    if remove:
        kept = kept or list(load_profile(name, choices["overrides"]).corpus.sources)
        if unknown := [s for s in map(source_name, remove) if s not in kept]:
            raise UserError(f"{lake.root} has no source {', '.join(unknown)}; it has {', '.join(kept)}")
        kept = [s for s in kept if s not in set(map(source_name, remove))]
        if not kept:
            raise UserError("a lake needs a source: name another with --images before the last one is removed")
    gone = [*dict.fromkeys((*old.get("removed", []), *map(source_name, remove)))]
    choices |= {"sources": kept, "removed": [s for s in gone if s not in kept]}
    settings = dict(choices["overrides"])
    if kept:
        settings["corpus.sources"] = kept
    if choices["removed"]:
        settings["corpus.removed"] = choices["removed"]
    if given := [*dict.fromkeys((*old.get("imports", []), *imports))]:
        choices["imports"] = given  # released triplets: a lake of these alone has no sources, not the profile's
        if not kept and not lake.shards():
            settings["corpus.sources"] = []
    resolved = load_profile(name, settings)
    if not resolved.corpus.sources and not given:
        raise UserError("no images: give --images with a folder, a manifest file or a WebDataset tar, or shapes:<n>")
    return resolved, choices
