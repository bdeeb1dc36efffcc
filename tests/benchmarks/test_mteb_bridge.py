"""``mteb`` evaluates our retrievers through the bridge."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from .checkpoints import Colours, InstructedColours


class Prompt:
    value = "query"


def test_rows_with_one_or_both_modalities_keep_their_order():
    from mmret.benchmarks.mteb_bridge import mteb_model

    encoder = InstructedColours()
    model = mteb_model(encoder, "tests/colours")
    red, blue = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    loader = [{"image": [red, None, blue], "text": ["", "to 1 2 3", "to 4 5 6"]}]
    model.get_instruction = lambda *_: "find it"
    rows = model.encode(loader, task_metadata=None, hf_split="test", hf_subset="default", prompt_type=Prompt())
    expected = [
        encoder.encode([red])[0],
        encoder.encode(texts=["to 1 2 3"])[0],
        encoder.encode([blue], ["to 4 5 6"])[0],
    ]
    np.testing.assert_array_equal(rows, np.stack(expected))
    assert encoder.instructions[:3] == ["find it"] * 3


def test_mteb_evaluates_a_retriever_on_its_image_text_retrieval_mock():
    import mteb
    from mteb.mocks import MockAny2AnyRetrievalT2ITask

    from mmret.benchmarks.mteb_bridge import mteb_model

    class AnyText(Colours):
        """The mock's texts name no colours."""

    result = mteb.evaluate(mteb_model(AnyText(), "tests/colours"), MockAny2AnyRetrievalT2ITask(), cache=None,
                           co2_tracker=False, show_progress_bar=False)  # fmt: skip
    scores = result.task_results[0].scores["test"][0]
    assert 0 <= scores["main_score"] <= 1


def test_without_mteb_the_message_says_what_to_install(monkeypatch):
    import sys

    from mmret.errors import UserError

    monkeypatch.setitem(sys.modules, "mteb.models.abs_encoder", None)
    monkeypatch.delitem(sys.modules, "mmret.benchmarks.mteb_bridge", raising=False)
    with pytest.raises(UserError, match="pip install"):
        import mmret.benchmarks.mteb_bridge  # noqa: F401
