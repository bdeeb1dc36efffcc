"""What is declared beside a lake becomes its settings: once, exactly as declared, and nothing else of them changes."""

import pytest
import yaml

from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.lake.declared import recipe_overrides, refuse_removal

NIGHT = {"steps": 20, "batch_size": 16}


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(tmp_path / "lake")


def remember(lake: Lake, overrides: dict) -> None:
    lake.write_configuration(resolve(lake, sources=["shapes:9"], overrides=overrides)[1])


def declare(lake: Lake, recipes: dict, train: tuple = ()) -> dict:
    overrides = recipe_overrides(lake, recipes, train)
    remember(lake, overrides)
    return overrides


def test_a_declared_recipe_is_remembered_once_and_the_others_stay(lake):
    before = resolve(lake, sources=["shapes:9"])[0]
    assert declare(lake, {"night": NIGHT}, ("night",)) == {"recipes.night": NIGHT, "train": [*before.train, "night"]}
    after = resolve(lake)[0]
    assert after.recipes["night"].steps == 20 and after.recipes["demo"] == before.recipes["demo"]
    written = (lake.root / "lake.yaml").read_text()
    assert declare(lake, {"night": NIGHT}, ("night",)) == {} and (lake.root / "lake.yaml").read_text() == written


def test_a_recipe_that_is_no_longer_declared_for_training_is_not_trained_by_itself(lake):
    declare(lake, {"night": NIGHT}, ("night",))
    assert "night" in resolve(lake)[0].train
    assert set(declare(lake, {"night": NIGHT})) == {"train"} and "night" not in resolve(lake)[0].train


def test_the_declaration_wins_over_what_was_set_of_its_parts_before(lake):
    declare(lake, {"night": NIGHT})
    remember(lake, {"recipes.night.steps": 99})
    assert resolve(lake)[0].recipes["night"].steps == 99
    assert yaml.safe_load((lake.root / "lake.yaml").read_text())["overrides"]["recipes.night"] == NIGHT
    declare(lake, {"night": NIGHT})
    assert resolve(lake)[0].recipes["night"].steps == 20


def test_a_declared_source_cannot_be_removed_while_its_file_is_there(lake):
    refuse_removal({"holiday": "/pictures/a"}, ["/pictures/b"])
    with pytest.raises(UserError, match="declared as source 'holiday': delete its defs.yaml first"):
        refuse_removal({"holiday": "/pictures/a"}, ["/pictures/a"])
