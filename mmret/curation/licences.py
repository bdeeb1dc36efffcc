"""Licences of pictures: one name for the many spellings, what they ask for, and which triplets may be used together.

A manifest's licence column is free text ("CC BY-SA 4.0", a URL, "CC-BY-2.0."). It is read into an SPDX id where there is one and
into *terms* that matter when data is passed on. What cannot be read is ``unknown``, never taken for free. A triplet has the terms
of both its pictures. Costs one look-up per distinct text, so ten million rows take as long as their column takes to read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from mmret.settings import LicenceSettings

TERMS = ("unknown", "no_derivatives", "non_commercial", "share_alike")
"""What a licence can ask for beyond attribution, strictest first; each is a setting of :class:`LicenceSettings`."""
MAIN = "main"
"""The set of triplets that nothing keeps apart."""
SEPARATOR = " | "
"""Between the licences of a triplet's two pictures, where they differ (:mod:`mmret.assemble.triplets`)."""

_CC = re.compile(r"\bcc[\s_-]*(?P<terms>by(?:[\s_-]+(?:nc|nd|sa))*)(?:[\s_-]*v?(?P<version>\d\.\d))?")
_CC_URL = re.compile(r"creativecommons\.org/licen[cs]es/(?P<terms>by(?:-(?:nc|nd|sa))*)(?:/(?P<version>\d\.\d))?")
_ZERO = re.compile(r"\bcc[\s_-]*(?:0|zero)\b|creativecommons\.org/publicdomain/zero")
_PUBLIC = re.compile(r"\bpublic[\s_-]*domain\b|creativecommons\.org/publicdomain/mark|\bpdm\b|\bno known copyright")
_WORDS = (("attribution", "by"), ("non[\\s-]?commercial", "nc"), ("no[\\s-]?deriv(?:ative)?s?", "nd"), ("share[\\s-]?alike", "sa"))
_CLOSED = re.compile(
    r"\b(?:not (?:stated|specified|given|known)|unknown|unclear|unspecified|none|n/?a|all rights reserved|various"
    r"|mixed|copyright(?:ed)? by)\b"
)
_OTHERS = (
    (r"\bapache\b.*\b2(?:\.0)?\b", "Apache-2.0"),
    (r"^(?:the )?mit(?: licen[cs]e)?$", "MIT"),
    (r"\bbsd\b.*\b3\b", "BSD-3-Clause"),
    (r"\b(?:ofl|open font)\b", "OFL-1.1"),
    (r"\bodbl\b|open database licen", "ODbL-1.0"),
    (r"\bagpl\b", "AGPL-3.0-only"),
    (r"\blgpl\b", "LGPL-3.0-only"),
    (r"\bgpl", "GPL-3.0-only"),
    (r"\bgfdl\b|free documentation licen", "GFDL-1.3-only"),
)
_SHARE_ALIKE = re.compile(r"(?i)\b(?:CC-BY-(?:NC-)?SA|A?GPL|LGPL|GFDL|MPL|EPL|EUPL|OSL|CECILL|OFL|ODbL|CDLA-Sharing|CAL|FreeImage)")
_PERMISSIVE = re.compile(
    r"(?i)^(?:LicenseRef-)?(?:MIT|Apache|BSD|ISC|0BSD|Zlib|Unlicense|CC0|CC-BY|CC-PDM|CC-PDDC|PDDL|ODC-By"
    r"|WTFPL|X11|NCSA|PSF|Python|Artistic|BSL|MS-PL|UPL|CDLA-Permissive|OGL|Public-Domain|etalab|NLOD|DL-DE)"
)


@dataclass(frozen=True)
class Licence:
    """``name``: an SPDX id or expression where there is one (``CC-BY-SA`` where no version is given), else the text or ``unknown``.

    ``terms``: those of :data:`TERMS` it asks for; empty for public domain, permissive and attribution-only licences.
    """

    name: str
    terms: frozenset[str]


def _versioned(terms: str, version: str | None) -> str:
    parts = re.split(r"[\s_-]+", terms)
    ordered = [p for p in ("by", "nc", "nd", "sa") if p in parts]
    return "-".join(["CC", *(p.upper() for p in ordered), *([version] if version else [])])


def _creative_commons(text: str) -> str | None:
    if _ZERO.search(text):
        return "CC0-1.0"
    if found := _CC_URL.search(text) or _CC.search(text):
        return _versioned(found["terms"], found["version"])
    if "creative commons" in text or "attribution" in text:
        terms = " ".join(short for word, short in _WORDS if re.search(word, text))
        version = re.search(r"\b\d\.\d\b", text)
        return _versioned(terms, version and version[0]) if terms.startswith("by") else None
    return None


def _spdx(text: str) -> str | None:
    """``text`` as a canonical SPDX expression, or None."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return None


def _terms(name: str) -> frozenset[str]:
    if " OR " in name:  # the user of the data chooses: what every choice asks for
        return frozenset.intersection(*(_terms(part.strip("() ")) for part in name.split(" OR ")))
    if " AND " in name:
        return frozenset().union(*(_terms(part.strip("() ")) for part in name.split(" AND ")))
    marks = (("-NC", "non_commercial"), ("-ND", "no_derivatives"))
    terms = {term for mark, term in marks if mark in name and name.startswith("CC-")}
    if _SHARE_ALIKE.search(name):
        terms.add("share_alike")
    elif not _PERMISSIVE.match(name):
        terms.add("unknown")
    return frozenset(terms)


@lru_cache(maxsize=65_536)
def read_licence(text: str | None) -> Licence:
    """The licence that one cell of a manifest means; never raises. Absent, unreadable and reserved ones are ``unknown``."""
    said = " ".join((text or "").split()).strip(" .;,")
    if not said or _CLOSED.search(said.lower()):
        return Licence("unknown", frozenset({"unknown"}))
    name = _spdx(said) or _creative_commons(said.lower())
    if name is None and _PUBLIC.search(said.lower()):
        name = "LicenseRef-Public-Domain"
    if name is None:
        name = next((spdx for pattern, spdx in _OTHERS if re.search(pattern, said.lower())), None)
    return Licence(said, frozenset({"unknown"})) if name is None else Licence(name, _terms(name))


def triplet_licences(text: str | None) -> tuple[Licence, ...]:
    """The distinct licences in a cell of column ``licence`` of table ``triplets``, in their order.

    >>> [licence.name for licence in triplet_licences("CC BY 2.0 | CC BY-SA 4.0")]
    ['CC-BY-2.0', 'CC-BY-SA-4.0']
    """
    return tuple(dict.fromkeys(read_licence(part) for part in (text or "").split(SEPARATOR)))


def licence_set(text: str | None, settings: LicenceSettings) -> str | None:
    """The set of a row with this licence: ``main``, its strictest term that is kept apart, or None where it is excluded.

    >>> licence_set("CC BY-SA 4.0", LicenceSettings(share_alike="apart"))
    'share_alike'
    """
    licences = triplet_licences(text)
    if any(fnmatch(licence.name.lower(), pattern.lower()) for licence in licences for pattern in settings.exclude):
        return None
    terms = frozenset().union(*(licence.terms for licence in licences))
    rules = {term: getattr(settings, term) for term in TERMS if term in terms}
    if "exclude" in rules.values():
        return None
    return next((term for term, rule in rules.items() if rule == "apart"), MAIN)


@dataclass(frozen=True)
class LicenceSets:
    """What :func:`licence_sets` returns."""

    sets: dict[str, pa.Table]  # triplets by set: ``main``, also where it is empty, then those kept apart
    excluded: dict[str, int]  # rows in no set, by licence text
    dropped_negatives: int = 0


def _set_of_each_row(texts: pa.ChunkedArray, settings: LicenceSettings) -> pa.Array:
    """The set of every row, null where excluded."""
    encoded = texts.combine_chunks().dictionary_encode(null_encoding="encode")
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    sets = pa.array([licence_set(t, settings) for t in encoded.dictionary.to_pylist()], pa.string())
    return sets.take(encoded.indices)


def licence_sets(triplets: pa.Table, settings: LicenceSettings, images: pa.Table | None = None) -> LicenceSets:
    """Split ``triplets`` (any columns, with ``licence``) into sets; every row is in one of them or counted as excluded.

    With ``images`` (``image_id, licence``) hard negatives are dropped whose own set is neither ``main`` nor the row's; the query
    image, the first of them, always stays.
    """
    belongs = _set_of_each_row(triplets["licence"], settings)
    sets, dropped = {MAIN: triplets.slice(0, 0)}, 0
    image_sets = None if images is None or settings.keeps_all() else _image_sets(images, settings)
    for name in (MAIN, *TERMS):
        rows = triplets.filter(pc.equal(belongs, name))
        if name != MAIN and not rows.num_rows:
            continue
        if image_sets is not None and "hard_negatives" in rows.column_names:
            rows, fewer = _allowed_negatives(rows, image_sets, name)
            dropped += fewer
        sets[name] = rows
    out = triplets["licence"].filter(pc.is_null(belongs))
    return LicenceSets(sets, {str(r["values"]): r["counts"] for r in out.value_counts().to_pylist()}, dropped)


def _image_sets(images: pa.Table, settings: LicenceSettings) -> Mapping[str, str | None]:
    """Images that are not in ``main``, with their set; usually few."""
    belongs = _set_of_each_row(images["licence"], settings)
    apart = pc.fill_null(pc.not_equal(belongs, MAIN), True)
    return dict(zip(images["image_id"].filter(apart).to_pylist(), belongs.filter(apart).to_pylist(), strict=True))


def _allowed_negatives(rows: pa.Table, image_sets: Mapping[str, str | None], name: str) -> tuple[pa.Table, int]:
    """``rows`` of set ``name`` without the hard negatives of other sets, and how many these were."""
    before = pc.sum(pc.list_value_length(rows["hard_negatives"])).as_py() or 0
    kept = [
        [i for at, i in enumerate(ids or []) if at == 0 or image_sets.get(i, MAIN) in (MAIN, name)]
        for ids in rows["hard_negatives"].to_pylist()
    ]
    place = rows.column_names.index("hard_negatives")
    column = pa.array(kept, rows.schema.field("hard_negatives").type)
    return rows.set_column(place, rows.schema.field(place), column), before - sum(map(len, kept))
