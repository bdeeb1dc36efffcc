"""Forgetting drops every trace of a picture that opted out, says what it cost, and leaves the rest of the lake as it is."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmret.annotate.protocol import Answer
from mmret.annotate.store import AnswerStore
from mmret.curation.opted_out import opted_out_ids, without_opted_out
from mmret.errors import UserError
from mmret.export.rows import ExportSettings, triplets
from mmret.forget import forget_opted_out
from mmret.hashing import content_id, pair_id
from mmret.ingest.pictures.images import images_by_id
from mmret.ingest.stage import ingest_shard, seal_corpus
from mmret.ingest.web.url_list import file_of
from mmret.lake import Lake, history
from mmret.lake.as_of import open_as_of
from mmret.lake.configuration import resolve
from mmret.lake.holding import REQUESTS, note_opted_out, noted_requests
from mmret.retriever.opted_out_since import all_opted_out_since
from mmret.retriever.train.data_state import checkpoint_rows, record_data_state
from mmret.schemas import CHECKPOINTS, DESCRIPTIONS, PAIRS, TABLES, TEACHER_SCORES, TRIPLETS, VERDICTS, vectors
from mmret.settings import CorpusSettings
from tests.ingest.files import captioned, png

IDS = [content_id(png(n)) for n in range(6)]
GONE = IDS[1]
PAIRS_OF = [(0, 1, [2, 3]), (2, 3, [1, 4]), (3, 4, [5, 0]), (4, 5, [2, 0])]
"""Query, target and hard negatives, by number."""


def rows(schema: pa.Schema, found: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(found, schema)


def downstream(lake: Lake) -> None:
    """What the stages after `images` leave, for the pictures that are images now."""
    images = set(lake.read("images", columns=["image_id"])["image_id"].to_pylist())
    pairs = [
        {"query_id": IDS[q], "target_id": IDS[t], "hard_negatives": [IDS[n] for n in ns if IDS[n] in images]}
        for q, t, ns in PAIRS_OF
        if {IDS[q], IDS[t]} <= images
    ]
    for pair in pairs:
        pair["pair_id"] = pair_id(pair["query_id"], pair["target_id"])
    lake.write("pairs", "shard-00000", rows(PAIRS, pairs), "x")
    described = [{"pair_id": p["pair_id"], "request_key": key(p["pair_id"]), "text": f"of {p['pair_id']}"} for p in pairs]
    lake.write("descriptions", "shard-00000", rows(DESCRIPTIONS, described), "x")
    texts = {"texts": ["a", "b", "c"], "signals": ["clip_image", "dino_image", "caption"], "split": "train"}
    lake.write("triplets", "shard-00000", rows(TRIPLETS, [{**p, **texts} for p in pairs]), "x", train=len(pairs))
    table = lake.lance("clip_image", vectors(8))
    if not table.count_rows():
        flat = np.random.default_rng(0).standard_normal(48).astype(np.float16)
        columns = {"image_id": IDS, "shard": ["shard-00000"] * 6, "model": ["m"] * 6, "truncated": [False] * 6}
        table.add(pa.table([*columns.values(), pa.FixedSizeListArray.from_arrays(pa.array(flat), 8)], schema=vectors(8)))
    lake.write("clip_image", "shard-00000", rows(TABLES["clip_image"], [{"image_id": i} for i in sorted(images)]), "x")


def key(pair: str) -> str:
    return content_id(pair.encode())


@pytest.fixture
def lake(tmp_path) -> Lake:
    """Six pictures, four triplets, a checkpoint trained on them, and vectors by it; then the second picture opts out."""
    captioned(tmp_path / "pictures", {f"{n}.png": png(n) for n in range(6)})
    lake = Lake(tmp_path / "lake")
    settings, choices = resolve(lake, sources=[str(tmp_path / "pictures")])
    lake.write_configuration(choices)
    run(lake, settings)
    downstream(lake)
    recipe = settings.recipes["demo"]
    state = record_data_state(lake, recipe)
    row = {"recipe": "demo", "folder": "checkpoints/demo", "settings": recipe.model_dump_json()}
    lake.write("checkpoints", "demo", rows(CHECKPOINTS, [row]), "x", state=state, licences=settings.licences.model_dump())
    store = AnswerStore(lake.storage)
    keys = [key(pair_id(IDS[q], IDS[t])) for q, t, _ in PAIRS_OF]
    store.append("describe", keys, [Answer(text=f"answer {n}") for n in range(4)])
    for name, column in (("gallery/digest/shard-00000", "image_id"), ("fingerprints/shard-00000", "name")):
        path = lake.root / f"{name}.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({column: IDS}), path)
        path.with_suffix(".npy").touch()
    for work in ("checkpoints/demo.work/frozen.npy", ".dagster/history/runs/a.db"):
        (lake.root / work).parent.mkdir(parents=True)
        (lake.root / work).touch()
    (tmp_path / "list.txt").write_text("1.png\n")
    run(
        lake,
        settings.model_copy(
            update={"corpus": CorpusSettings(sources=settings.corpus.sources, opt_out=(str(tmp_path / "list.txt"),))}
        ),
    )
    return lake


def run(lake: Lake, settings) -> None:
    seal_corpus(lake, settings, "x")
    ingest_shard(lake, "shard-00000", settings.ingest, "x")


def content(path: Path) -> bytes:
    """What a file holds, as it stands and, where it is compressed, unpacked."""
    unpacked = str(pq.read_table(path, partitioning=None).to_pydict()) if path.suffix == ".parquet" else ""
    return path.read_bytes() + unpacked.encode()


def files_with(lake: Lake, needle: bytes) -> list[str]:
    return sorted(str(p.relative_to(lake.root)) for p in lake.root.rglob("*") if p.is_file() and needle in content(p))


def test_no_byte_of_the_picture_and_no_id_but_that_of_its_refusal_is_left_in_any_file(lake):
    assert opted_out_ids(lake).to_pylist() == [GONE]
    downstream(lake)
    assert not images_by_id(lake, [GONE]) and files_with(lake, png(1)), "current tables do without it, files still hold it"
    states = [f for f in files_with(lake, GONE.encode()) if f.startswith("history/")]
    assert states
    done = forget_opted_out(lake)
    assert not files_with(lake, png(1)) and not files_with(lake, png(1)[60:180])
    listing = ("corpus_manifest/", "rejects/", "history/corpus_manifest/", "history/rejects/")
    assert [f for f in files_with(lake, GONE.encode()) if not f.startswith(listing)] == []
    assert (done.pictures, done.vectors_by_checkpoints, done.fingerprints, done.trainings_in_progress, done.run_history) == (1,) * 5
    assert set(images_by_id(lake, IDS)) == set(IDS) - {GONE} and lake.lance("clip_image").count_rows() == 5
    assert forget_opted_out(lake).versions == 0, "a second time there is nothing left to drop"


def test_a_run_that_was_stopped_after_sealing_notes_the_requests_when_it_is_run_again(lake, tmp_path):
    (lake.root / REQUESTS).unlink()
    (lake.root / "history" / "opted_out_noted.txt").unlink()
    settings = resolve(lake, overrides={"corpus.opt_out": [str(tmp_path / "list.txt")]})[0]
    seal_corpus(lake, settings, "x")
    assert noted_requests(lake) == [key(pair_id(IDS[0], GONE))]


def test_answers_about_it_are_dropped_and_those_that_a_row_came_from_stay(lake):
    downstream(lake)
    keys = [key(pair_id(IDS[q], IDS[t])) for q, t, _ in PAIRS_OF]
    for version in history.versions(lake, "descriptions", "shard-00000")[:-1]:
        (
            lake.root / version.key
        ).unlink()  # as compaction does after some days: which answers they were is noted when the picture opts out
    assert forget_opted_out(lake).answers == 1
    assert set(AnswerStore(lake.storage).look_up("describe", keys)) == set(keys[1:])


def test_answers_of_earlier_attempts_and_of_judges_are_dropped_too_and_what_cannot_be_told_is_counted(lake):
    downstream(lake)
    store, keys = AnswerStore(lake.storage), [key(name) for name in ("attempt", "judged", "other", "old")]
    store.append("describe", keys[:1], [Answer("an attempt")], [(GONE, IDS[0])])
    store.append("judge", keys[1:3], [Answer("8 8"), Answer("9 9")], [(IDS[0], GONE), (IDS[2], IDS[3])])
    store.append("judge", keys[3:], [Answer("7 7")])
    done = forget_opted_out(lake)
    assert (done.answers, done.answers_of_unknown_pictures) == (3, 1)
    assert not store.look_up("describe", keys) and set(store.look_up("judge", keys)) == set(keys[2:])


def test_requests_are_noted_by_the_next_run_where_one_was_stopped_before_and_anew_when_a_picture_opts_out_again(lake):
    file = lake.root / REQUESTS
    noted = noted_requests(lake)
    assert noted == [key(pair_id(IDS[0], GONE))]
    for stopped in (True, False):
        file.unlink()
        if stopped:
            (lake.root / "history" / "opted_out_noted.txt").unlink()
        note_opted_out(lake, opted_out_ids(lake))
        assert noted_requests(lake) == (noted if stopped else [])
    note_opted_out(lake, pa.array([], pa.string()))  # withdrawn
    note_opted_out(lake, opted_out_ids(lake))
    assert noted_requests(lake) == noted


def test_checkpoints_trained_on_it_are_said_to_be_before_and_after_and_their_rows_are_said_to_be_gone(lake):
    downstream(lake)
    assert len(checkpoint_rows(lake, "demo")) == 4 and all_opted_out_since(lake) == {"demo": 1}
    done = forget_opted_out(lake)
    assert done.checkpoints == {"demo": 1} and done.unlisted == ["demo"]
    with pytest.raises(UserError, match="1 pictures in them have opted out, and what held them was dropped"):
        checkpoint_rows(lake, "demo")
    assert all_opted_out_since(lake) == {"demo": 1}
    with pytest.raises(UserError, match="have been dropped"):
        history.state_at(lake, history.versions(lake, "rejects", "shard-00000")[0].written, "then")


def test_earlier_states_are_exported_without_it(lake):
    downstream(lake)
    then = open_as_of(lake, "demo")
    assert then.read("triplets").num_rows == 4
    found = triplets(then, "shard-00000", ExportSettings())[("main", "train")]
    assert found.num_rows == 3 and GONE not in json.dumps(found.to_pylist())
    assert without_opted_out(lake.read("triplets"), lake).equals(lake.read("triplets"))


def test_what_current_tables_still_use_is_not_forgotten_behind_their_back(lake):
    with pytest.raises(UserError, match="partitions still use some of them .*pairs/shard-00000.*run `mmret run"):
        forget_opted_out(lake)
    assert files_with(lake, png(1))


def test_a_tagged_lance_version_is_left_to_whoever_tagged_it(lake):
    from mmret.lake.data_sets import data_set

    downstream(lake)
    data_set(lake.lance("clip_image")).tags.create("mine", 1)
    with pytest.raises(UserError, match=r"clip_image has tagged versions \(mine\).*delete the tags"):
        forget_opted_out(lake)


@pytest.mark.parametrize("pruned", [False, True])
def test_a_teacher_s_scores_are_rid_of_it_in_place_and_the_others_stay(lake, pruned):
    taught = [
        {
            "teacher": "judge",
            "pair_id": pair_id(IDS[q], IDS[t]),
            "query_id": IDS[q],
            "text": "a",
            "candidate_id": IDS[c],
            "model": "m",
        }
        for q, t, negatives in PAIRS_OF
        for c in (t, q, *negatives)
    ]
    lake.write("teacher_scores", "judge-0", rows(TEACHER_SCORES, taught), "m", said="so")
    downstream(lake)
    if pruned:
        for version in [v for table in ("pairs", "triplets") for v in history.versions(lake, table, "shard-00000")[:-1]]:
            (lake.root / version.key).unlink()
    forget_opted_out(lake)
    left = lake.read("teacher_scores").to_pylist()
    assert {(r["pair_id"], r["candidate_id"]) for r in left} == {
        (pair_id(IDS[q], IDS[t]), IDS[c]) for q, t, negatives in PAIRS_OF[1:] for c in (t, q, *negatives) if c != 1
    }
    assert not [f for f in files_with(lake, GONE.encode()) if "teacher_scores" in f]
    facts = lake.facts("teacher_scores", "judge-0")
    assert (facts.inputs, facts.notes["said"]) == ("m", "so"), "a teacher goes on from there"


def test_verdicts_are_rid_of_it_in_place_and_the_others_stay(lake):
    said = [
        {
            "filter": "false_negatives",
            "pair_id": pair_id(IDS[q], IDS[t]),
            "query_id": IDS[q],
            "target_id": IDS[t],
            "candidate_id": IDS[c],
        }
        for q, t, negatives in PAIRS_OF
        for c in negatives
    ]
    said += [
        {"filter": "consistency", "pair_id": pair_id(IDS[q], IDS[t]), "query_id": IDS[q], "target_id": IDS[t], "text": "a"}
        for q, t, _ in PAIRS_OF
    ]
    lake.write("verdicts", "consistency-0", rows(VERDICTS, said), "m", note="so")
    downstream(lake)
    forget_opted_out(lake)
    left = lake.read("verdicts").to_pylist()
    assert {(r["pair_id"], r["candidate_id"]) for r in left} == {
        (pair_id(IDS[q], IDS[t]), c) for q, t, negatives in PAIRS_OF[1:] for c in (None, *(IDS[n] for n in negatives if n != 1))
    }
    assert not [f for f in files_with(lake, GONE.encode()) if "verdicts" in f]
    assert lake.facts("verdicts", "consistency-0").notes["note"] == "so"


def test_files_that_were_fetched_by_address_are_deleted_and_no_other(tmp_path):
    table, addresses = tmp_path / "table.csv", [f"https://example.org/{n}.png" for n in range(4)]
    table.write_text("url,caption\n" + "".join(f"{address},picture {n}\n" for n, address in enumerate(addresses)))
    paths = [tmp_path / "table.csv.pictures" / file_of(address) for address in addresses]
    for n, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(n % 3))
    captioned(tmp_path / "pictures", {"mine.png": png(1)})
    lake = Lake(tmp_path / "lake")
    (tmp_path / "list.txt").write_text(f"{IDS[0]}\n{IDS[1]}\n{IDS[2]}\n")
    overrides = {"corpus.opt_out": [str(tmp_path / "list.txt")]}
    settings, choices = resolve(lake, sources=[f"urls:{table}", str(tmp_path / "pictures")], overrides=overrides)
    lake.write_configuration(choices)
    run(lake, settings)
    paths[2].write_bytes(png(5))  # another picture by now
    assert forget_opted_out(lake).downloads == 3
    assert [path.exists() for path in paths] == [False, False, True, False] and (tmp_path / "pictures" / "mine.png").exists()
