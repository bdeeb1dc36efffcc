"""What a data card says of an export's format: how its reader opens it, and what the fields mean."""

from __future__ import annotations

FIELDS = {
    "pair_id": "first 128 bits of the SHA-256 of query and target id, in hex",
    "query_id, target_id": "of the pictures: first 128 bits of the SHA-256 of the file, in hex",
    "texts": "instructions, three or more: each leads from the query picture to the target",
    "hard_negatives": "ids of pictures that are near the query but are not its target; the first is the query picture itself",
    "signals": "the similarities that found the pair inside their band",
    "split": "train, or test: triplets of query pictures that were held out",
    "query_path, target_path": "names in the source's own manifest",
    "description_model, instruction_model": "what wrote the texts",
    "licence": "of both pictures, as the source gives it; joined with a bar where they differ",
}

LOADING = {
    "megapairs": "Each line of `train.jsonl` and `test.jsonl` has `q_img`, `q_text`, `t_img` and `hns`, paths below `images/`.",
    "huggingface": """```python
from datasets import load_dataset

triplets = load_dataset("FOLDER", split="train")        # query_image and target_image are pictures
images = load_dataset("FOLDER", "images", split="corpus")  # every picture once, hard negatives too
```""",
    "webdataset": """```python
import pathlib, webdataset

triplets = (webdataset.WebDataset(sorted(map(str, pathlib.Path("FOLDER").glob("train-*.tar"))), shardshuffle=False)
            .decode("pil").rename(query="query.jpg;query.png", target="target.jpg;target.png"))
```

A sample's `json` has the fields below; `negative1.<ext>` and so on are the pictures of its first mined hard negatives.""",
    "tevatron": """```
python -m tevatron.retriever.driver.train --dataset_name FOLDER --dataset_config queries --dataset_split train \\
    --corpus_name FOLDER --corpus_config corpus --train_group_size 4 ...
python -m tevatron.retriever.driver.encode --dataset_name FOLDER --dataset_config queries --dataset_split test --encode_is_query ...
```

Each instruction is a row of `queries`: `query_id` (the pair's id and the instruction's number), `query_text`, `query_image`,
`positive_document_ids` (the target), `negative_document_ids` (the hard negatives, the query picture first). `corpus` has every
picture once: `docid` (its id), `image`, and an empty `text`, since a candidate is a picture alone. `qrels.test.txt` is TREC's.""",
}
"""How to load an export, as Markdown, by format."""
