"""Weights and processor of a folder in stock classes of transformers, refused where they are another model's or not there.

``transformers`` fills what a folder lacks, weights with random numbers and says so in a warning that nobody sees (a folder of
EVA-CLIP says that it is of type ``clip`` and would load so), a tokenizer's words with none. Costs reading the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from mmret.encode.quiet import silence
from mmret.errors import UserError

UNUSED = ("lm_head.",)
"""Weights that embedding needs not: those of the logits."""


def load_stock(model_class: Any, folder: str | Path, dtype: torch.dtype | str, what: str, unused: Sequence[str] = UNUSED) -> Any:
    """The model in ``folder`` (or of a hub name) as ``model_class``, which may be an auto class; ``what``: its words in an error.

    ``unused``: how the names begin of weights that the caller does without; those of logits are random where the folder lacks them.
    Raises UserError where a file is missing or damaged, and where the weights lack some of the class's.
    """
    try:
        with silence():
            model, found = model_class.from_pretrained(str(folder), dtype=dtype, output_loading_info=True)
    except torch.OutOfMemoryError:
        raise
    except SafetensorError as error:
        raise damaged(folder, error) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot load {what} from {folder}: {error}") from None
    missing = sorted(key for key in found["missing_keys"] if not key.startswith(tuple(unused)))
    if missing and all(key.startswith(UNUSED) for key in missing):
        raise UserError(
            f"the weights in {folder} lack {missing[0]}, the output head by whose logits a reranker answers: it is a model for "
            "embedding alone. Take the instruct model of its family, or a published reranker"
        )
    if missing:
        raise UserError(
            f"the weights in {folder} are not those of a stock {type(model).__name__}: {len(missing)} are missing, the first "
            f"{missing[0]}. Models with code of their own (EVA-CLIP, say) are not loaded: give one in transformers' own format"
        )
    return model


def damaged(folder: str | Path, error: SafetensorError) -> UserError:
    """What is said of a safetensors file that is not whole; its error is neither an OSError nor a ValueError."""
    return UserError(f"cannot load a model from {folder}: its weights are damaged ({error}); fetch or train it again")


def load_stock_processor(processor_class: Any, folder: str | Path) -> Any:
    """The processor in ``folder`` (or of a hub name). Raises UserError where a file of it is missing."""
    try:
        with silence():
            processor = processor_class.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:300]
        raise UserError(f"cannot load the processor of {folder}: {reason}; {_NEEDED}") from None
    words = processor.tokenizer.get_vocab()
    if len(words) <= 2 * len(processor.tokenizer.all_special_tokens):
        raise UserError(f"cannot load the processor of {folder}: its tokenizer knows no word; {_NEEDED}")
    return processor


_NEEDED = (
    "the model's tokenizer files (tokenizer.json and tokenizer_config.json, or spiece.model) and preprocessor_config.json or "
    "processor_config.json belong beside its weights"
)
