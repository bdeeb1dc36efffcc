"""A LoRA adapter and its base model as one whole model, which loads without peft. Needs the model's size in memory and on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from mmret.atomic import replacing_folder
from mmret.encode.quiet import silence
from mmret.errors import UserError
from mmret.retriever.models.checkpoint import RECORD
from mmret.retriever.models.engine_files import write_engine_files
from mmret.retriever.models.kinds import adapter_base, is_reranker
from mmret.retriever.models.mllm import MllmRetriever


def export_merged(adapter: Path | str, out: Path, dtype: str = "auto") -> None:
    """Merge an adapter into its base model and write the whole as stock ``transformers`` files into ``out``, with
    those by which sentence-transformers and vLLM embed.

    ``dtype``: of the weights written; ``auto`` is the base model's own. Raises UserError where ``adapter`` is none or ``out`` is
    there already.
    """
    if adapter_base(adapter) is None:
        raise UserError(f"{adapter} holds no LoRA adapter: there is nothing to merge")
    if out.exists():
        raise UserError(f"{out} is there already; name another folder")
    retriever = MllmRetriever.load(adapter, "cpu", dtype)

    def fill(folder: Path) -> None:
        with silence():
            retriever.model.save_pretrained(folder)
            retriever.processor.save_pretrained(folder)
        if (record := Path(adapter) / RECORD).is_file():  # with the instruction of its queries
            shutil.copy(record, folder)
        if retriever.asked:
            retriever.asked.save(folder)
        if not is_reranker(adapter):  # those files say how to embed
            write_engine_files(folder)

    with replacing_folder(out) as aside:
        fill(aside)
