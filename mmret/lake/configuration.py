"""Which settings a lake runs with: its profile, the sources added so far and the values overridden, kept in ``lake.yaml``.

So ``mmret run --lake L`` continues what was begun, the same lake opened in the Dagster UI has the same settings, and a
second ``--images`` adds to the corpus instead of replacing it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mmret.errors import UserError
from mmret.lake.store import Lake
from mmret.paths import is_address, local_path
from mmret.settings import Profile, load_profile
from mmret.storage import is_object_address
from mmret.storage.addresses import object_address

DEFAULT_PROFILE = "demo"
URL_LIST = "urls:"
"""Begins the name of a source that is a table of addresses, whose pictures are to be fetched."""


def source_name(source: str) -> str:
    """A source as it is recorded: built-in corpora as given, files and folders as absolute paths, addresses of an object store as
    addresses; the same behind ``urls:``."""
    if re.match(r"^shapes:", source):
        return source
    if source.startswith(URL_LIST):
        return f"{URL_LIST}{source_name(source.removeprefix(URL_LIST))}"
    if is_object_address(source):
        return str(object_address(source, "the source"))
    path = local_path(source, "the source")
    real = path.resolve()
    # a file of the Hugging Face cache is a link to a blob, whose name does not tell what it holds
    return str(path.parent.resolve() / path.name if path.suffix != real.suffix and path.is_file() else real)


def note_refused(lake: Lake, sources: Sequence[str]) -> bool:
    """Note that ``sources`` were refused before anything of a new lake was sealed; returns whether that is so.

    A run that names others does without them; one that names none tries them again.
    """
    configuration = lake.read_configuration()
    refused = [s for s in map(source_name, sources) if s in configuration.get("sources", [])]
    if not refused or lake.shards():
        return False
    lake.write_configuration({**configuration, "refused": refused})
    return True


def resolve(
    lake: Lake,
    profile: str | None = None,
    sources: Sequence[str] = (),
    shard_size: int | None = None,
    overrides: dict[str, Any] | None = None,
    remove: Sequence[str] = (),
    imports: Sequence[str] = (),
) -> tuple[Profile, dict[str, Any]]:
    """Combine the lake's configuration with what is asked for now; returns the settings and the new configuration.

    Nothing is written: :meth:`mmret.lake.store.Lake.write_configuration` makes the lake remember it. ``overrides`` are settings by
    dotted name; ``remove`` names sources that the lake is to be without, ``imports`` files of released triplets.

    >>> settings, configuration = resolve(Lake("lakes/demo"), overrides={"mine.k": 20})

    Raises UserError where the profile differs from the one the lake was made with: that would silently re-encode everything,
    and for a source to ``remove`` that the lake does not have.
    """
    old = lake.read_configuration()
    name = profile or old.get("profile") or DEFAULT_PROFILE
    if old and name != old["profile"]:
        raise UserError(
            f"{lake.address} was made with profile '{old['profile']}', not '{name}'. Use another --lake, "
            f"or change 'profile' in {lake.configuration_path} yourself to have its stages computed again."
        )
    overrides = _with_whole_paths(overrides or {})
    given = [source_name(source) for source in sources]
    refused = old.get("refused", []) if given and not lake.shards() else []
    all_sources = [s for s in old.get("sources", []) if s not in refused or s in given]
    all_sources += [s for s in given if s not in all_sources]
    configuration = {"profile": name, "sources": all_sources, "overrides": _overridden(old.get("overrides", {}), overrides)}
    if shard_size is not None:
        configuration["overrides"]["corpus.shard_size"] = shard_size
    if remove:
        all_sources = all_sources or list(load_profile(name, configuration["overrides"]).corpus.sources)
        if unknown := [s for s in map(source_name, remove) if s not in all_sources]:
            raise UserError(f"{lake.address} has no source {', '.join(unknown)}; it has {', '.join(all_sources)}")
        all_sources = [s for s in all_sources if s not in set(map(source_name, remove))]
        if not all_sources:
            raise UserError("a lake needs a source: name another with --images before the last one is removed")
    removed = [*dict.fromkeys((*old.get("removed", []), *map(source_name, remove)))]
    configuration |= {"sources": all_sources, "removed": [s for s in removed if s not in all_sources]}
    settings = dict(configuration["overrides"])
    if all_sources:
        settings["corpus.sources"] = all_sources
    if configuration["removed"]:
        settings["corpus.removed"] = configuration["removed"]
    if released := [*dict.fromkeys((*old.get("imports", []), *imports))]:
        configuration["imports"] = released  # released triplets: a lake of these alone has no sources, not the profile's
        if not all_sources and not lake.shards():
            settings["corpus.sources"] = []
    resolved = load_profile(name, settings)
    for key, value in overrides.items():
        _refuse_addresses(key, value)
    if not resolved.corpus.sources and not released:
        raise UserError("no images: give --images with a folder, a manifest file or a WebDataset tar, or shapes:<n>")
    return resolved, configuration


def _with_whole_paths(overrides: dict[str, Any]) -> dict[str, Any]:
    """``overrides`` with opt-out lists as absolute paths: the lake is opened from other folders too."""
    if (lists := overrides.get("corpus.opt_out")) is None:
        return overrides
    names = [lists] if isinstance(lists, str) else lists
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return overrides  # which the settings refuse
    return overrides | {"corpus.opt_out": [str(local_path(name, "--set corpus.opt_out:").absolute()) for name in names]}


def _overridden(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """``old`` with ``new`` on top: a section given as a whole supersedes what was set of its parts before."""
    return {key: value for key, value in old.items() if not any(key.startswith(f"{each}.") for each in new)} | new


def _refuse_addresses(key: str, value: Any) -> None:
    """Raise UserError for an address among the values given now, before the lake remembers it; servers' are no paths."""
    if isinstance(value, dict):
        for name, each in value.items():
            _refuse_addresses(f"{key}.{name}", each)
    elif isinstance(value, list | tuple):
        for each in value:
            _refuse_addresses(key, each)
    elif isinstance(value, str) and not key.endswith((".urls", "alarms.ui")) and is_address(value):
        local_path(value, f"--set {key}:")
