"""Section 3.1 of the paper in plain Python: mine pairs of pictures that are alike in one of three ways, and not too alike.

    python examples/mine.py --images shapes:2000 --out work

Reads captioned pictures (whatever `mmret run --images` takes), embeds them in three spaces, finds the neighbours of each picture
inside a band of similarity and chooses targets and hard negatives among them. Writes ``images.parquet`` and ``pairs.parquet``.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmret.encode.bands import propose
from mmret.encode.protocol import Encoder, load_encoder
from mmret.encode.stream import image_vectors
from mmret.errors import UserError
from mmret.ingest.in_memory import read_source
from mmret.mine.candidates import ShardVectors, candidates
from mmret.mine.choose import choose
from mmret.mine.merge import neighbours
from mmret.mine.negatives import beyond_full_lists
from mmret.mine.scores import pair_scores
from mmret.schemas import SIGNALS
from mmret.settings import BandSettings, load_profile, parse_override
from mmret.towers.train import train as train_towers


def embed(encoder: Encoder, images: pa.Table, signal: str) -> np.ndarray:
    """Unit vectors (n, width) float16: of the captions for signal ``caption``, else of the pictures."""
    if signal == "caption":
        return encoder.encode_texts(images["caption"].to_pylist()).astype(np.float16)
    batches = images.select(["image_id", "path", "data"]).to_batches(max_chunksize=encoder.batch_size)
    return np.concatenate([vectors for _, vectors in image_vectors(encoder, batches)]).astype(np.float16)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default="shapes:2000", help="folder, table, tar or shapes:<n>?seed=<s>")
    parser.add_argument("--out", type=Path, default=Path("work"))
    parser.add_argument("--profile", default="demo", help="names the three encoders; demo trains its own on the pictures")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting of the profile")
    options = parser.parse_args(arguments)
    profile = load_profile(options.profile, dict(map(parse_override, options.set)))
    options.out.mkdir(parents=True, exist_ok=True)

    images, rejects = read_source(options.images)
    for reject in rejects.to_pylist():
        print(f"not used: {reject['path']}: {reject['reason']} {reject['detail']}")

    # three spaces: what a picture shows, how it looks, what its caption says
    ids, captions = images["image_id"].to_pylist(), images["caption"].to_pylist()
    if profile.towers:
        train_towers(zip(ids, images["data"].to_pylist(), captions, strict=True), profile.towers, options.out / "towers")
    vectors = {s: embed(load_encoder(profile.encoders[s], s, options.out), images, s) for s in SIGNALS}
    corpus = ShardVectors("corpus", ids, vectors)

    # neighbours inside the band: alike, but no near-duplicates
    bands = {s: band if isinstance(band, BandSettings) else propose(vectors[s]) for s, band in profile.mine.bands.items()}
    lists = neighbours([candidates(corpus, [], profile.mine, bands)], profile.mine.k)

    def score(pairs: pa.Table) -> pa.Table:
        return pair_scores(pairs, [corpus])

    # targets, and other neighbours of the query as hard negatives
    lists = pa.concat_tables([lists, beyond_full_lists(lists, score, bands, profile.mine.k)])
    pairs, reasons = choose(lists, dict(zip(ids, captions, strict=True)), score, profile.mine, bands)
    pq.write_table(images, options.out / "images.parquet")
    pq.write_table(pairs, options.out / "pairs.parquet")
    told = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in reasons.items() if count)
    print(f"{images.num_rows} pictures, {pairs.num_rows} pairs in {options.out}; targets: {told}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
