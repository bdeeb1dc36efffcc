"""Ways to damage a lake, each of which a check has to find."""

import pyarrow as pa
import pyarrow.parquet as pq

from mmret.freshness.fingerprints import inputs_of
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.lake.inputs import record_inputs
from mmret.retriever.train.log import LOG, read_log
from mmret.schemas import TABLES

SHARD = "shard-00000"
NOBODY = "0" * 32


def rewrite(lake: Lake, table: str, change, shard: str = SHARD) -> None:
    """Damage a partition without leaving a trace in its fingerprint."""
    facts = lake.facts(table, shard)
    lake.write(table, shard, change(lake.read(table, shard)), facts.inputs, **facts.notes)


def less(rows: pa.Table) -> pa.Table:
    return rows.slice(1)


def doubled(rows: pa.Table) -> pa.Table:
    return pa.concat_tables([rows.slice(0, 1), rows.slice(0, rows.num_rows - 1)])


def with_column(name: str, value):
    def change(rows: pa.Table) -> pa.Table:
        values = [value, *rows[name].to_pylist()[1:]]
        field = rows.schema.field(name)
        return rows.set_column(rows.schema.names.index(name), field, pa.array(values, field.type))

    return change


def same_as(column: str, wrap=lambda value: value, **changed):
    """The first row's ``column`` takes what its other column has."""

    def change(rows: pa.Table) -> pa.Table:
        (name, other) = next(iter(changed.items()))
        return with_column(name, wrap(rows[other][0].as_py()))(rows)

    return change


def settle(lake: Lake, *tables: str) -> None:
    """Record of partitions that they were computed from what is there now, damaged or not."""
    profile = resolve(lake)[0]
    for table in tables:
        for partition in lake.partitions(table):
            inputs, facts = inputs_of(lake, profile, table, partition), lake.facts(table, partition)
            record_inputs(lake, inputs)
            lake.write(table, partition, lake.read(table, partition), inputs.fingerprint, **facts.notes)


def leak(lake: Lake, column: str) -> None:
    """A picture of the pairs turns out to be a benchmark's, after they were mined."""
    found = lake.read("pairs", SHARD)[column][0].as_py()
    row = {f.name: None for f in TABLES["leaks"]} | {
        "image_id": found if isinstance(found, str) else found[-1],
        "benchmark": "circo",
    }
    lake.write("leaks", "all", pa.Table.from_pylist([row], TABLES["leaks"]), lake.facts("leaks", "all").inputs)
    settle(lake, "pairs")


def log_of(lake: Lake, losses) -> None:
    """A training log with these losses in place of the recorded one."""
    folder = lake.root / lake.read("checkpoints")["folder"][0].as_py()
    log = read_log(folder)
    rows = [dict(log.slice(0, 1).to_pylist()[0], step=i, loss=loss) for i, loss in enumerate(losses)]
    pq.write_table(pa.Table.from_pylist(rows, log.schema), folder / LOG)


def measured(lake: Lake, benchmark: str, metric: str, percent: float, recipe: str = "demo") -> None:
    """The evaluation of recipe demo has one row, this figure of ``recipe``."""
    row = {
        "recipe": recipe,
        "benchmark": benchmark,
        "metric": metric,
        "value": percent,
        "queries": 200,
        "gallery": 9,
        "inputs": "x",
    }
    lake.write("evaluations", "demo", pa.Table.from_pylist([row], TABLES["evaluations"]), "x")
    settle(lake, "evaluations")


def refuse(lake: Lake, share: float, reason: str = "missing_file") -> None:
    """This share of the manifest's rows was refused for ``reason``; all others were taken."""
    for shard in lake.shards():
        rows, facts = lake.read("corpus_manifest", shard), lake.facts("corpus_manifest", shard)
        count = round(share * rows.num_rows)
        values = pa.array([reason] * count + [None] * (rows.num_rows - count), pa.string())
        rows = rows.set_column(rows.schema.names.index("reason"), rows.schema.field("reason"), values)
        lake.write("corpus_manifest", shard, rows, facts.inputs, **facts.notes)


def caption_written(lake: Lake, position: int, lacking: bool = False) -> None:
    """One caption of the first shard is written, of the picture at ``position``; ``lacking``: its first row lacks one."""
    if lacking:
        rewrite(lake, "corpus_manifest", with_column("reason", "no_caption"))
    row = {"shard": SHARD, "position": position, "path": "x", "text": "a text", "origin": "file_name", "status": "ok"}
    lake.write("written_captions", SHARD, pa.Table.from_pylist([row], TABLES["written_captions"]), "x")
    for table in ("written_captions", "images"):
        settle(lake, table)


def group(lake: Lake, pictures: int = 2, called: int = 0, members: tuple[int, ...] = (0, 1)) -> None:
    """A group of near-duplicates of the pictures at ``members``, the last place being no image's; ``called`` after which."""
    ids = [*lake.read("images", SHARD, ["image_id"])["image_id"].to_pylist()[:3], NOBODY]
    filler = {"shard": SHARD, "first": True, "nearest_id": ids[0], "score": 1.0, "signals": ["clip_image"]}
    rows = [{"image_id": ids[m], "group_id": ids[called], "pictures": pictures, **filler} for m in members]
    rewrite(lake, "duplicates", lambda _: pa.Table.from_pylist(rows, TABLES["duplicates"]), "all")


def without(task: str):
    """The first row of ``task`` is lost."""

    def change(rows: pa.Table) -> pa.Table:
        at = rows["task"].to_pylist().index(task)
        return pa.concat_tables([rows.slice(0, at), rows.slice(at + 1)])

    return change


def negative(picture=None, caption=None, captions: int = 1):
    """The first row has one hard negative: another picture, or that of its own column ``picture``; the same for its caption."""

    def change(rows: pa.Table) -> pa.Table:
        pictures = [rows[picture][0].as_py() if picture else NOBODY]
        texts = [rows[caption][0].as_py() if caption else "another"] * captions
        return with_column("negative_captions", texts)(with_column("hard_negatives", pictures)(rows))

    return change
