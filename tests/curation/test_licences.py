"""Licences: every spelling has one name, what cannot be read is never free, and the sets of a table are a partition of its rows."""

import json

import pyarrow as pa
import pytest

from mmret.curation.licences import MAIN, TERMS, licence_set, licence_sets, read_licence, triplet_licences
from mmret.schemas import TRIPLETS
from mmret.settings import LicenceSettings

APART = LicenceSettings(share_alike="apart", unknown="apart")


@pytest.mark.parametrize(
    ("text", "name", "terms"),
    [
        ("CC BY-SA 4.0", "CC-BY-SA-4.0", {"share_alike"}),
        ("cc-by-sa-4.0", "CC-BY-SA-4.0", {"share_alike"}),
        ("https://creativecommons.org/licenses/by-sa/3.0/de/", "CC-BY-SA-3.0", {"share_alike"}),
        ("CC BY-SA", "CC-BY-SA", {"share_alike"}),
        ("Creative Commons Attribution-ShareAlike 4.0 International", "CC-BY-SA-4.0", {"share_alike"}),
        ("CC BY 2.0.", "CC-BY-2.0", set()),
        ("CC BY 2.0 DEED", "CC-BY-2.0", set()),
        ("CC-BY 3.0", "CC-BY-3.0", set()),
        ("CC BY 2.0. Photo courtesy: USIP", "CC-BY-2.0", set()),
        ("CC0", "CC0-1.0", set()),
        ("cc0-1.0", "CC0-1.0", set()),
        ("http://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0", set()),
        ("Public Domain", "LicenseRef-Public-Domain", set()),
        ("CC BY-NC-ND 4.0", "CC-BY-NC-ND-4.0", {"non_commercial", "no_derivatives"}),
        ("CC BY-NC-SA 2.0", "CC-BY-NC-SA-2.0", {"non_commercial", "share_alike"}),
        ("Attribution-NonCommercial 4.0", "CC-BY-NC-4.0", {"non_commercial"}),
        ("apache 2.0", "Apache-2.0", set()),
        ("MIT", "MIT", set()),
        ("GPL-3.0-or-later", "GPL-3.0-or-later", {"share_alike"}),
        ("MIT OR GPL-3.0-only", "MIT OR GPL-3.0-only", set()),
        ("Unsplash License", "Unsplash License", {"unknown"}),
        (None, "unknown", {"unknown"}),
        ("", "unknown", {"unknown"}),
        ("All Rights Reserved", "unknown", {"unknown"}),
        ("as published by OpenStax under CC BY 4.0 (item licence not stated)", "unknown", {"unknown"}),
        ("ask Bob", "ask Bob", {"unknown"}),
    ],
)
def test_spellings(text, name, terms):
    licence = read_licence(text)
    assert (licence.name, set(licence.terms)) == (name, terms)


def test_a_triplet_has_the_terms_of_both_pictures():
    assert [licence.name for licence in triplet_licences("CC BY 2.0 | CC BY-SA 4.0")] == ["CC-BY-2.0", "CC-BY-SA-4.0"]
    assert licence_set("CC BY 2.0 | CC BY-SA 4.0", APART) == "share_alike"
    assert licence_set("CC BY-SA 4.0 | unknown", APART) == "unknown", "the strictest term names the set"
    assert licence_set("CC BY-SA 4.0 | unknown", LicenceSettings(share_alike="exclude")) is None
    assert licence_set("CC BY-NC 2.0", LicenceSettings(exclude=("cc-by-nc*",))) is None
    assert licence_set(None, LicenceSettings()) == MAIN


def rows(*licences, negatives=()):
    return pa.Table.from_pylist(
        [{"pair_id": str(i), "licence": text, "hard_negatives": ["q", *negatives]} for i, text in enumerate(licences)], TRIPLETS
    )


def test_the_sets_part_the_rows_and_nothing_is_lost():
    table = rows("CC0", "CC BY-SA 4.0", None, "CC BY-NC 4.0", "CC BY 4.0 | CC BY-SA 3.0", "MIT")
    found = licence_sets(table, LicenceSettings(share_alike="apart", unknown="apart", non_commercial="exclude"))
    assert {name: t["pair_id"].to_pylist() for name, t in found.sets.items()} == {
        MAIN: ["0", "5"],
        "share_alike": ["1", "4"],
        "unknown": ["2"],
    }
    assert found.excluded == {"CC BY-NC 4.0": 1}
    assert set(found.sets) <= {MAIN, *TERMS} and sum(t.num_rows for t in found.sets.values()) + 1 == table.num_rows


def test_keeping_all_changes_nothing_and_an_empty_table_has_a_main_set():
    table = rows("CC0", None, negatives=["x"])
    images = pa.table({"image_id": ["q", "x"], "licence": pa.array([None, None], pa.string())})
    assert licence_sets(table, LicenceSettings(), images).sets == {MAIN: table}
    assert licence_sets(table.slice(0, 0), APART).sets[MAIN].num_rows == 0


def test_hard_negatives_answer_to_the_settings_but_the_query_image_stays():
    images = pa.table({"image_id": ["q", "free", "sa", "lost"], "licence": ["CC BY-SA 4.0", "CC0", "CC BY-SA 4.0", None]})
    found = licence_sets(rows("CC0", "CC BY-SA 4.0", negatives=["free", "sa", "lost"]), APART, images)
    assert found.sets[MAIN]["hard_negatives"].to_pylist() == [["q", "free"]]
    assert found.sets["share_alike"]["hard_negatives"].to_pylist() == [["q", "free", "sa"]]
    assert found.dropped_negatives == 3 and found.sets[MAIN].schema == TRIPLETS


def test_real_licence_texts(pictures):
    lines = (pictures / "openstax_photos" / "captions.jsonl").read_text().splitlines()
    texts = {json.loads(line).get("item_licence") or json.loads(line).get("licence") for line in lines}
    terms = {text: read_licence(text).terms for text in texts}
    assert {t for t, found in terms.items() if "share_alike" in found} == {t for t in texts if "SA" in t.split()[-1] and "-SA" in t}
    unreadable = [t for t, found in terms.items() if "unknown" in found]
    assert all("not stated" in t for t in unreadable), unreadable
