"""Arrow schemas of every table of the lake, on one page, with what each column says.

Lance holds what is large or searched by row id: ``images`` (with the encoded picture) and the three vector tables.
Parquet holds the rest, one file per partition at ``<lake>/<table>/<partition>.parquet``. For the Lance tables the Parquet
file of a shard holds the same rows without the heavy column; it is written last, so it is also the mark that the shard is complete.

Ids: ``image_id`` is the first 128 bits of the SHA-256 of the picture's file, in hex; ``pair_id`` the same of
``"<query_id>:<target_id>"``. Scores are cosine similarities (float32). ``shard`` is ``shard-00000`` and so on.
"""

from __future__ import annotations

import pyarrow as pa

SIGNALS = ("clip_image", "dino_image", "caption")
"""The three similarities of MegaPairs (section 3.1): visual-semantic, visual-pattern, caption."""

_text, _strings = pa.string(), pa.list_(pa.string())

COMMENTS: dict[str, dict[str, str]] = {}
"""What each column of each table says, by table. Kept beside the schemas: as metadata of their fields it would be written into
every file, and a better word would make a lake stale."""


def column_comment(table: str, column: str) -> str:
    """What ``column`` of ``table`` says, in a sentence without its full stop; empty for a column that is none of the table's.

    >>> column_comment("pairs", "signals")
    'the signals that found the pair inside their band'
    """
    return COMMENTS.get(table, {}).get(column, "")


def _table(table: str, *columns: tuple[str, pa.DataType, str]) -> pa.Schema:
    """The schema of ``table``; what its columns say is entered in :data:`COMMENTS`."""
    COMMENTS[table] = {name: comment for name, _, comment in columns}
    return pa.schema([(name, type_) for name, type_, _ in columns])


CORPUS_MANIFEST = _table(
    "corpus_manifest",
    ("shard", _text, "sealed slice of the corpus that the row belongs to"),
    ("position", pa.int32(), "order inside the shard"),
    ("root", _text, 'the source as given: a folder, a tar, a table, "urls:<table>" or "shapes:<n>?seed=<s>"'),
    ("path", _text, "as the source's own manifest writes it; the name users refer to an image by"),
    ("image_id", _text, "first 128 bits of the SHA-256 of the file, in hex; null where the file could not be read"),
    ("size", pa.int64(), "bytes of the file"),
    ("mtime_ns", pa.int64(), "time of the file's last change; with size: whether the file must be hashed again"),
    ("caption", _text, "the first caption that says something; all others are in extra"),
    ("licence", _text, "as the source gives it, or null"),
    ("source", _text, "where the source says the picture is from: an address or a name, or null"),
    ("extra", _text, "every other column of the source's manifest, as one JSON object"),
    ("reason", _text, "null, or why the row cannot become an image: duplicate, missing_file, unsafe_path, ..."),
    ("detail", _text, "what exactly was wrong, for a person"),
)

WRITTEN_CAPTIONS = _table(
    "written_captions",
    ("shard", _text, "sealed slice of the corpus that the picture belongs to"),
    ("position", pa.int32(), "order inside the shard"),
    ("root", _text, "the source as given"),
    ("path", _text, "as the source's own manifest writes it"),
    ("image_id", _text, "of the picture whose caption is missing or poor"),
    ("request_key", _text, "digest of all that decides a model's answer; null where none was asked"),
    ("text", _text, "the caption; null where there is none to be had"),
    ("origin", _text, "where it is from: xmp, iptc, exif, png, file_name, folder_name or model:<name>@<revision>"),
    ("source_caption", _text, "the caption that the source gives, where it was found poor; null where it gives none"),
    ("model", _text, "the model that was asked, or null"),
    ("prompt_version", _text, "version of the prompt, or null"),
    ("parser_version", _text, "version of what reads the answer, or null"),
    ("status", _text, "ok, or failed: nothing that could be found or written says what is in the picture"),
    ("reason", _text, "null, or why there is no text"),
    ("tokens_in", pa.int32(), "tokens of the request, as the server counts them"),
    ("tokens_out", pa.int32(), "tokens of the answer"),
)

IMAGES_INDEX = _table(
    "images",
    ("image_id", _text, "first 128 bits of the SHA-256 of the file, in hex; one row per picture"),
    ("shard", _text, "sealed slice of the corpus that the picture belongs to"),
    ("position", pa.int32(), "order inside the shard"),
    ("path", _text, "as the source's own manifest writes it"),
    ("root", _text, "the source as given"),
    ("caption", _text, "the caption that is encoded and shown to annotators"),
    ("caption_words", pa.int32(), "number of words of the caption"),
    ("width", pa.int32(), "pixels, after EXIF rotation"),
    ("height", pa.int32(), "pixels, after EXIF rotation"),
    ("format", _text, "of the file: PNG, JPEG, ..."),
    ("mode", _text, "Pillow's mode of the file: RGB, CMYK, I;16, ..."),
    ("licence", _text, "as the source gives it, or null"),
    ("source", _text, "where the source says the picture is from, or null"),
    ("extra", _text, "every other column of the source's manifest, as one JSON object"),
    ("remark", _text, 'null, or what is odd about the file beside its pixels (ancillary_checksum, ...), joined with " | "'),
    ("caption_origin", _text, "null where the source gives the caption, else where it is from: file_name, xmp, model:<name>, ..."),
    ("source_caption", _text, "the source's own caption where a poor one was replaced, else null"),
)
IMAGES = IMAGES_INDEX.append(pa.field("data", pa.large_binary()))
COMMENTS["images"]["data"] = "the file as it was found; in Lance only"

REJECTS = _table(
    "rejects",
    ("shard", _text, "sealed slice of the corpus that the row belongs to"),
    ("position", pa.int32(), "order inside the shard"),
    ("root", _text, "the source as given"),
    ("path", _text, "as the source's own manifest writes it"),
    ("image_id", _text, "of the file's content; null where the file could not be read"),
    ("source", _text, "where the source says the picture is from, or null"),
    ("reason", _text, "why the row is no image: duplicate, missing_file, no_caption, ..."),
    ("detail", _text, "what exactly was wrong, for a person"),
)

REMARKS = _table(
    "remarks",
    ("root", _text, "the source as given"),
    ("remark", _text, "what was noticed: unknown_file, caption_overruled, guessed_encoding, ..."),
    ("count", pa.int64(), "how often in this source"),
    ("path", _text, "where the first of them is"),
    ("detail", _text, "what the first of them is, for a person"),
)

_VECTOR_COLUMNS = (
    ("image_id", _text, "the picture that was encoded, or whose caption was"),
    ("shard", _text, "sealed slice of the corpus that the picture belongs to"),
    ("model", _text, "name, revision and preprocessing in one string: a change of any is a change of model"),
    ("truncated", pa.bool_(), "the caption was longer than the tower's limit"),
)
VECTORS_INDEX = _table("clip_image", *_VECTOR_COLUMNS)
COMMENTS["dino_image"] = COMMENTS["clip_image"]
CAPTION_VECTORS_INDEX = _table(
    "caption",
    *_VECTOR_COLUMNS,
    (
        "caption_id",
        _text,
        "128 bits of the SHA-256 of the caption that was encoded, in hex; null if encoded before captions could change",
    ),
)
for _signal in SIGNALS:
    COMMENTS[_signal]["vector"] = "of unit length, float16; in Lance only"


def vectors(width: int, index: pa.Schema = VECTORS_INDEX) -> pa.Schema:
    """Schema of a vector table: the columns of ``index`` and ``vector``, (width,) float16 of unit length."""
    return index.append(pa.field("vector", pa.list_(pa.float16(), width)))


LEAKS = _table(
    "leaks",
    ("image_id", _text, "picture of the corpus that a benchmark is measured with"),
    ("benchmark", _text, "name of the benchmark"),
    ("benchmark_image", _text, "the picture's name there"),
    ("how", _text, "how it was found: content, perceptual or embedding"),
    ("value", pa.float32(), "1 for equal content, bits of the perceptual hash that differ, or cosine"),
)

TOWERS = _table(
    "towers",
    ("signal", _text, "similarity that the model serves: clip_image, dino_image or caption"),
    ("model", _text, "towers/<name>@<digest of the weights>"),
    ("images", pa.int32(), "pictures of the lake that it was trained on"),
    ("steps", pa.int32(), "steps of its training; 0 for the weights of words, which are counted"),
    ("band_low", pa.float64(), "lower end of the band proposed for the signal in this model's own space"),
    ("band_high", pa.float64(), "upper end of that band"),
)

CANDIDATES = _table(
    "candidates",
    ("query_shard", _text, "shard of the query image"),
    ("query_id", _text, "picture for which neighbours are sought"),
    ("signal", _text, "similarity that found them: clip_image, dino_image or caption"),
    ("target_id", _text, "picture that was found"),
    ("score", pa.float32(), "cosine similarity of the two"),
    ("above_band", pa.bool_(), "a near-duplicate in this signal: never a target, kept so that groups can be formed"),
)

DUPLICATES = _table(
    "duplicates",
    ("image_id", _text, "picture that has a near-duplicate"),
    ("shard", _text, "sealed slice of the corpus that the picture belongs to"),
    ("group_id", _text, "the oldest picture of its group: stays the same when the corpus grows"),
    ("pictures", pa.int32(), "how many pictures the group has"),
    ("first", pa.bool_(), "whether it is the group's oldest, after which the group is called"),
    ("nearest_id", _text, "its nearest near-duplicate"),
    ("score", pa.float32(), "the highest cosine similarity of the two"),
    ("signals", _strings, "the similarities above whose band it lies with pictures of its group"),
)

SCORES = _table(
    "scores",
    ("image_id", _text, "picture that is scored"),
    ("scorer", _text, "name of the score in the settings"),
    ("value", pa.float32(), "the score"),
    ("model", _text, "what computed it: name, digest of its weights, and what it read"),
)

NEIGHBOURS = _table(
    "neighbours",
    ("query_id", _text, "picture for which neighbours are sought"),
    ("signal", _text, "similarity that found them: clip_image, dino_image or caption"),
    ("target_id", _text, "picture that was found"),
    ("score", pa.float32(), "cosine similarity of the two"),
    ("rank", pa.int32(), "0 is the nearest inside the band; null above the band"),
    ("above_band", pa.bool_(), "a near-duplicate in this signal: never a target"),
)

PAIRS = _table(
    "pairs",
    ("pair_id", _text, 'first 128 bits of the SHA-256 of "<query_id>:<target_id>", in hex'),
    ("query_id", _text, "the source picture"),
    ("target_id", _text, "the picture to be found"),
    ("signals", _strings, "the signals that found the pair inside their band"),
    ("clip_image_score", pa.float32(), "visual-semantic similarity (cosine)"),
    ("dino_image_score", pa.float32(), "visual-pattern similarity (cosine)"),
    ("caption_score", pa.float32(), "similarity of the captions (cosine)"),
    ("hard_negatives", _strings, "other retrieved pictures of the query, without the query itself"),
)

DESCRIPTIONS = _table(
    "descriptions",
    ("pair_id", _text, "the pair that is described"),
    ("request_key", _text, "digest of all that decides the answer: an answer is never paid for twice"),
    ("text", _text, "what the two pictures have in common and how they differ; null without an answer"),
    ("model", _text, "what wrote it"),
    ("prompt_version", _text, "version of the prompt"),
    ("parser_version", _text, "version of what reads the answer"),
    ("status", _text, "ok, failed (no answer that can be used) or rejected (answered, and found wanting)"),
    ("reason", _text, "null, or why there is no text"),
    ("tokens_in", pa.int32(), "tokens of the request, as the server counts them"),
    ("tokens_out", pa.int32(), "tokens of the answer"),
)

INSTRUCTIONS = _table(
    "instructions",
    ("pair_id", _text, "the pair that the instructions are for"),
    ("request_key", _text, "digest of all that decides the answer: an answer is never paid for twice"),
    ("texts", _strings, "instructions that lead from the query to the target: three or more where status is ok"),
    ("model", _text, "what wrote them"),
    ("prompt_version", _text, "version of the prompt"),
    ("parser_version", _text, "version of what reads the answer"),
    ("status", _text, "ok, failed (no answer that can be used) or rejected (answered, and found wanting)"),
    ("reason", _text, "null, or why there are no texts"),
    ("tokens_in", pa.int32(), "tokens of the request, as the server counts them"),
    ("tokens_out", pa.int32(), "tokens of the answer"),
)

TRIPLETS = _table(
    "triplets",
    ("pair_id", _text, "the pair that the triplet was made from"),
    ("query_id", _text, "the source picture"),
    ("target_id", _text, "the picture to be found"),
    ("texts", _strings, "the instructions, three or more"),
    ("hard_negatives", _strings, "the first is the query image itself, as MegaPairs requires"),
    ("signals", _strings, "the signals that found the pair inside their band"),
    ("split", _text, "train, or test: the query image was drawn for the held-out slice"),
    ("query_path", _text, "path of the source picture"),
    ("target_path", _text, "path of the picture to be found"),
    ("description_model", _text, "what described the pair"),
    ("instruction_model", _text, "what wrote the instructions"),
    ("licence", _text, 'of both pictures, joined with " | " where they differ'),
)

TASKS = _table(
    "tasks",
    ("task_id", _text, 'first 128 bits of the SHA-256 of "<task>:<query_id>:<target_id>", in hex'),
    ("task", _text, "the kind of query: text_to_image, image_to_text, image_to_image, ... (mmret/tasks.py)"),
    ("query_id", _text, "the picture whose image, caption or both ask"),
    ("target_id", _text, "the picture whose image, caption or both are the answer; of a picture and its own caption the query's"),
    ("texts", _strings, "the query's texts, one asked at a time: its caption, or the pair's instructions; none for an image alone"),
    ("query_caption", _text, "caption of the query picture"),
    ("target_caption", _text, "caption of the answer"),
    ("hard_negatives", _strings, "pictures whose image, caption or both are near the answer and wrong"),
    ("negative_captions", _strings, "their captions, in the same order"),
    ("pair_id", _text, "the mined pair that the row comes from; null where a picture and its own caption are the pair"),
    ("signals", _strings, "the signals that found the pair, or the hard negatives of a picture's own caption"),
    ("split", _text, "train, or test: a picture or a caption of the row is held out; of triplets with captions the query picture"),
    ("licence", _text, 'of both pictures, joined with " | " where they differ'),
)

EVALUATIONS = _table(
    "evaluations",
    ("recipe", _text, "the training run that is measured, or untrained: the model it started from"),
    ("benchmark", _text, "the set of queries"),
    ("metric", _text, "R@k: targets among the first k; image, text: by that half; kept: the query left in; first: not reranked"),
    ("value", pa.float64(), "percent"),
    ("queries", pa.int32(), "number of queries"),
    ("gallery", pa.int32(), "number of pictures searched in"),
    ("inputs", _text, "digest of the checkpoint and of the query set"),
)

CHECKPOINTS = _table(
    "checkpoints",
    ("recipe", _text, "name of the training run"),
    ("folder", _text, "where the model is, relative to the lake"),
    ("step", pa.int32(), "steps of training"),
    ("loss", pa.float64(), "a mean over the last tenth of the training"),
    ("pairs", pa.int64(), "training pairs it saw"),
    ("seconds", pa.float64(), "of training"),
    ("settings", _text, "the resolved recipe, JSON"),
)

TEACHER_SCORES = _table(
    "teacher_scores",
    ("teacher", _text, "who scored: a recipe, judge (the vision-language model), or scores/NAME, brought from outside"),
    ("pair_id", _text, "the pair of the triplet that was scored; of scores from outside that of source picture and candidate"),
    ("query_id", _text, "the source picture"),
    ("text", _text, "the instruction, one of the triplet's"),
    ("candidate_id", _text, "the target, the source picture itself, or another hard negative"),
    ("score", pa.float32(), "what the teacher says; higher is better among the candidates of one picture and text"),
    ("model", _text, "version of the teacher: digest of weights or of what was brought, or the judge's model and prompt"),
)

VERDICTS = _table(
    "verdicts",
    ("filter", _text, "what looked at it: consistency, false_negatives or judge"),
    ("pair_id", _text, "the pair of the training triplet"),
    ("query_id", _text, "the source picture"),
    ("target_id", _text, "the picture to be found"),
    ("text", _text, "the instruction that is judged; null where a hard negative is"),
    ("candidate_id", _text, "the hard negative that is judged; null where a text is"),
    ("verdict", _text, "keep, or drop: recipes with this filter do not train on it"),
    ("reason", _text, "why it is dropped, or could not be judged; null where it is kept"),
    ("score", pa.float32(), "what decided: log-odds of fitting, cosine of what captions mean, or the judge's 0 to 1"),
    ("threshold", pa.float32(), "texts at or below it are dropped, negatives at or above it"),
    ("signals", _strings, "the signals that say drop, each asked by itself"),
    ("model", _text, "version: the filter's own, and a digest of all that it read"),
)

DECISIONS = _table(
    "decisions",
    ("pair_id", _text, "the pair that was looked at"),
    ("decision", _text, "accepted, rejected or withdrawn; the last one on a pair counts"),
    ("note", _text, "what the reviewer wrote beside it"),
    ("reviewer", _text, "who decided"),
    ("decided_at", _text, "UTC, ISO 8601 with microseconds: sorts as text"),
)

TABLES: dict[str, pa.Schema] = {
    "corpus_manifest": CORPUS_MANIFEST,
    "remarks": REMARKS,
    "written_captions": WRITTEN_CAPTIONS,
    "images": IMAGES_INDEX,
    "rejects": REJECTS,
    "leaks": LEAKS,
    "clip_image": VECTORS_INDEX,
    "dino_image": VECTORS_INDEX,
    "caption": CAPTION_VECTORS_INDEX,
    "towers": TOWERS,
    "candidates": CANDIDATES,
    "duplicates": DUPLICATES,
    "scores": SCORES,
    "neighbours": NEIGHBOURS,
    "pairs": PAIRS,
    "descriptions": DESCRIPTIONS,
    "instructions": INSTRUCTIONS,
    "triplets": TRIPLETS,
    "tasks": TASKS,
    "checkpoints": CHECKPOINTS,
    "evaluations": EVALUATIONS,
    "teacher_scores": TEACHER_SCORES,
    "verdicts": VERDICTS,
    "decisions": DECISIONS,
}
"""What is on disk as Parquet and what the SQL views are named after."""

KEYS: dict[str, tuple[str, ...]] = {
    "corpus_manifest": ("position",),
    "remarks": ("root", "remark"),
    "written_captions": ("position",),
    "images": ("image_id",),
    "rejects": ("position",),
    "duplicates": ("image_id",),
    "scores": ("image_id", "scorer"),
    "leaks": ("image_id", "benchmark", "benchmark_image", "how"),
    **dict.fromkeys(SIGNALS, ("image_id",)),
    "towers": ("signal",),
    **dict.fromkeys(("candidates", "neighbours"), ("query_id", "signal", "target_id")),
    **dict.fromkeys(("pairs", "descriptions", "instructions", "triplets"), ("pair_id",)),
    "tasks": ("task_id",),
    "checkpoints": ("recipe",),
    "evaluations": ("recipe", "benchmark", "metric"),
    "teacher_scores": ("pair_id", "text", "candidate_id"),
    "verdicts": ("filter", "pair_id", "text", "candidate_id"),
    "decisions": ("pair_id", "reviewer", "decided_at"),
}
"""The columns that tell a row of a table from every other of its partition."""

ADDED_LATER = {"images": ("remark", "caption_origin", "source_caption"), "caption": ("caption_id",)}
"""Columns that older lakes lack. While they are all null they are no part of a table's digest: nothing turns stale for them."""

READ_BY_COLUMN = ("corpus_manifest", "images", "triplets")
"""Tables of which stages read some columns only, so that a change of the others makes nothing stale: files of these record since
when each column has been the same."""

WRITTEN_BY_PEOPLE = ("decisions",)
"""Tables that no stage computes (:mod:`mmret.curation.decisions`)."""

WRITTEN_WHEN_NEEDED = ("teacher_scores", "verdicts")
"""Tables of what is scored once for whoever trains with it (:mod:`mmret.retriever.train.teach`, :mod:`mmret.filters.check`): they
are no stage's result."""
