"""Weights of a folder in a stock class of transformers, refused where they are another model's.

``transformers`` fills what a folder lacks with random numbers and says so in a warning that nobody sees: a folder of EVA-CLIP says
that it is of type ``clip`` and would load so. Costs reading the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mmret.encode.quiet import silence
from mmret.errors import UserError

UNUSED = ("lm_head.",)
"""Weights that embedding needs not: those of the logits."""


def load_stock(model_class: Any, folder: str | Path, dtype: torch.dtype | str, what: str) -> Any:
    """The model in ``folder`` (or of a hub name) as ``model_class``, which may be an auto class; ``what``: its words in an error.

    Raises UserError where a file is missing or damaged, and where the weights lack some of the class's.
    """
    try:
        with silence():
            model, found = model_class.from_pretrained(str(folder), dtype=dtype, output_loading_info=True)
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot load {what} from {folder}: {error}") from None
    missing = sorted(key for key in found["missing_keys"] if not key.startswith(UNUSED))
    if missing:
        raise UserError(
            f"the weights in {folder} are not those of a stock {type(model).__name__}: {len(missing)} are missing, the first "
            f"{missing[0]}. Models with code of their own (EVA-CLIP, say) are not loaded: give one in transformers' own format"
        )
    return model
