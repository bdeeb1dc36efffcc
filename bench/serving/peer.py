"""The peer: the same lake behind faiss and FastAPI with as little around them as possible.

    python bench/serving/peer.py --lake DIR --port 8000 [--one-by-one]

``IndexFlatIP`` over the stored vectors, texts encoded by transformers, captions in a dictionary. Queries that wait are
searched together, which is what faiss is quick at: one by one (``--one-by-one``) two cores carry some tens a second.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmret.lake import Lake
from mmret.retriever.models.load import embedding_digest
from serving.lake import RECIPE, vectors_path
from serving.truth import stored_vectors

COLUMNS = ["image_id", "path", "caption", "licence"]


def application(lake: Lake, together: bool = True) -> Any:
    """The FastAPI application; ``together``: queries that wait are searched in one call."""
    import faiss
    import torch
    from fastapi import FastAPI
    from fastapi.responses import JSONResponse
    from transformers import CLIPModel, CLIPTokenizer

    folder = lake.root / "checkpoints" / RECIPE
    ids, vectors = stored_vectors(vectors_path(lake, folder, shard) for shard in lake.partitions("images"))
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    position = {image_id: i for i, image_id in enumerate(ids)}
    rows = {row["image_id"]: row for row in lake.read("images", columns=COLUMNS).to_pylist()}
    tokenizer, model = CLIPTokenizer.from_pretrained(folder), CLIPModel.from_pretrained(folder).eval()
    digest = embedding_digest(folder)
    waiting: list[tuple[str | None, str, int, asyncio.Future]] = []
    wake = asyncio.Event()

    def search(questions: list[tuple[str | None, str, int]]) -> list[dict[str, Any]]:
        queries = np.empty((len(questions), vectors.shape[1]), np.float32)
        spoken = [i for i, (image_id, _, _) in enumerate(questions) if image_id is None]
        if spoken:
            with torch.inference_mode():
                tokens = tokenizer([questions[i][1] for i in spoken], padding=True, return_tensors="pt")
                features = model.get_text_features(**tokens).pooler_output
                queries[spoken] = torch.nn.functional.normalize(features, dim=-1).numpy()
        for i, (image_id, _, _) in enumerate(questions):
            if image_id is not None:
                queries[i] = vectors[position[image_id]]
        scores, found = index.search(queries, max(k for _, _, k in questions) + 1)
        answers = []
        for (image_id, _, k), row, places in zip(questions, scores.tolist(), found.tolist(), strict=True):
            hits = [{"score": s, **rows[ids[p]]} for s, p in zip(row, places, strict=True) if ids[p] != image_id][:k]
            answers.append({"hits": hits, "gallery": len(ids), "checkpoint": digest})
        return answers

    async def serve_waiting() -> None:
        while True:
            await wake.wait()
            wake.clear()
            taken, waiting[:] = waiting[:64], waiting[64:]
            if waiting:
                wake.set()
            questions = [entry[:3] for entry in taken]
            for entry, answer in zip(taken, await asyncio.to_thread(search, questions), strict=True):
                if not entry[3].done():  # who asked has gone
                    entry[3].set_result(answer)

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(serve_waiting())
        yield
        task.cancel()

    app = FastAPI(lifespan=running)

    @app.get("/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.get("/search")
    async def answer(image_id: str | None = None, text: str = "", k: int = 20) -> JSONResponse:
        if not together:
            return JSONResponse((await asyncio.to_thread(search, [(image_id, text, k)]))[0])
        answered = asyncio.get_running_loop().create_future()
        waiting.append((image_id, text, k, answered))
        wake.set()
        return JSONResponse(await answered)

    return app


def main() -> None:
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--one-by-one", action="store_true")
    given = parser.parse_args()
    uvicorn.run(application(Lake(given.lake), not given.one_by_one), port=given.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
