"""Tasks: each has the parts that its name says, and the instruction that MMEB has for it."""

from __future__ import annotations

import pytest
import yaml

from mmret.settings import Recipe
from mmret.tasks import COMPOSED, MADE_TASKS, TASK_NAMES, TASKS, task_of
from tests.conftest import CHECKOUT

MMEB = yaml.safe_load((CHECKOUT / "mmret/benchmarks/mmeb/protocol.yaml").read_text())["sets"]
SETS = {
    "text_to_image": "MSCOCO_t2i",
    "image_to_text": "MSCOCO_i2t",
    "image_to_image": "NIGHTS",
    "image_text_to_image_text": "CIRR",
}


@pytest.mark.parametrize(("task", "mmeb"), SETS.items())
def test_the_instruction_is_mmeb_s_where_mmeb_has_the_task(task, mmeb):
    assert TASKS[task].instruction == MMEB[mmeb]["query_instruction"]


@pytest.mark.parametrize("name", [name for name in TASK_NAMES if name != COMPOSED])
def test_the_parts_are_those_of_the_name(name):
    query, candidate = name.split("_to_")
    assert "_".join(TASKS[name].query) == query and "_".join(TASKS[name].candidate) == candidate
    assert TASKS[name].searches_texts == (candidate == "text")


def test_the_composed_task_is_what_recipes_train_by_default_and_the_only_one_without_rows_of_its_own():
    assert TASKS[COMPOSED].instruction == Recipe.model_fields["instruction"].default
    assert (COMPOSED, *MADE_TASKS) == TASK_NAMES and task_of("text_to_text") is TASKS["text_to_text"]
    with pytest.raises(KeyError, match="text_to_video"):
        task_of("text_to_video")


def test_an_instruction_ends_in_a_space_where_a_text_follows_it():
    assert all(task.instruction.endswith(" ") == ("text" in task.query) for task in TASKS.values())
