"""The export for Tevatron, read as its own loader reads it: every instruction a query with its target and its negatives, every
document in the corpus, pictures byte for byte."""

from __future__ import annotations

import pytest

from mmret.export.rows import ExportSettings
from mmret.export.tevatron import export_tevatron
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from tests.export.conftest import profile, rows_of

SMALL = ExportSettings(file_bytes=60_000)  # several files of each kind


@pytest.fixture(scope="module")
def lake(small_lake) -> Lake:
    return Lake(small_lake[0])


@pytest.fixture(scope="module")
def exported(lake, tmp_path_factory):
    """The export and a function that loads a configuration and split of it as Tevatron does."""
    import datasets

    folder = tmp_path_factory.mktemp("tevatron")
    export_tevatron(lake, profile(lake), folder / "out", SMALL)

    def load(name: str, split: str):
        return datasets.load_dataset(str(folder / "out"), name, data_files=None, split=split, cache_dir=str(folder / "cache"))

    return folder / "out", load


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_instruction_is_a_query_with_its_target_and_its_negatives_in_the_corpus(lake, exported, split):
    out, load = exported
    queries, corpus = load("queries", split), load("corpus", "train")
    triplets = {row["pair_id"]: row for row in rows_of(lake, split)}
    rows = queries.remove_columns("query_image").to_list()
    assert sorted((r["pair_id"], r["query_text"]) for r in rows) == sorted(
        (pair, text) for pair, row in triplets.items() for text in row["texts"]
    )
    assert len({r["query_id"] for r in rows}) == len(rows) > len(triplets) > 0
    at = {docid: i for i, docid in enumerate(corpus["docid"])}
    for row in rows:
        triplet = triplets[row["pair_id"]]
        assert row["positive_document_ids"] == [triplet["target_id"]] and triplet["target_id"] in at
        assert row["negative_document_ids"][0] == triplet["query_id"] and set(row["negative_document_ids"]) <= set(at)
        assert triplet["target_id"] not in row["negative_document_ids"]
    relevant = [line.split() for line in (out / f"qrels.{split}.txt").read_text().splitlines()]
    assert {q: d for q, _, d, _ in relevant} == {r["query_id"]: r["positive_document_ids"][0] for r in rows}


def test_pictures_are_the_files_as_they_were_found_and_open_as_pictures(lake, exported):
    import datasets

    _, load = exported
    corpus = load("corpus", "train")
    files = images_by_id(lake, corpus["docid"])
    raw = corpus.cast_column("image", datasets.Image(decode=False)).to_list()
    assert {r["docid"]: r["image"]["bytes"] for r in raw} == files and len(raw) == len(files)
    assert {r["text"] for r in raw} == {""}, "a candidate is a picture alone"
    query = load("queries", "test")[0]
    assert query["query_image"].size and corpus[0]["image"].mode == "RGB"


def test_what_tevatron_asks_of_a_row_is_there(exported):
    """The fields that ``tevatron.retriever.dataset`` (2.0) reads without a default, and those it reads if they are there."""
    _, load = exported
    assert {"query_id", "query_text", "query_image", "positive_document_ids", "negative_document_ids"} <= set(
        load("queries", "train").column_names
    )
    assert {"docid", "text", "image"} <= set(load("corpus", "train").column_names)
    assert not {"positive_passages", "video", "audio"} & set(load("queries", "train").column_names)
