"""Where people misread GeneCIS: each rule of the official code that is easy to get wrong, pinned."""

from __future__ import annotations

from .conftest import dump, load
from .layouts import (
    genecis,
    genecis_predictions,
)


def test_genecis_mean_over_tasks_and_ranks(call, tmp_path):
    lists = genecis_predictions()
    lists["change_object"] = [[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [1, 2, 0, 3, 4], [1, 2, 3, 0, 4]]
    values = call("genecis", "--annotations", genecis(tmp_path), "--predictions", dump(tmp_path / "p.json", lists), "--json").json
    assert values["focus_attribute"] == {"R@1": 0, "R@2": 100, "R@3": 100}
    assert values["change_object"] == {"R@1": 25, "R@2": 50, "R@3": 75}
    assert values["mean"] == {"R@1": 12.5, "R@2": 75, "R@3": 87.5}


def test_genecis_a_repeated_target_in_the_gallery_is_kept_and_not_a_second_hit(call, tmp_path):
    path = genecis(tmp_path, ("focus_object",), 1) / "focus_object.json"
    template = load(path)
    template[0]["gallery"][0] = template[0]["target"]
    dump(path, template)
    lists = dump(tmp_path / "p.json", {"focus_object": [[1, 2, 3, 4, 0]]})
    values = call("genecis", "--annotations", path, "--predictions", lists, "--json").json
    assert values["focus_object"]["R@3"] == 0


def test_genecis_official_files_have_the_counted_templates_and_galleries(golden):
    from mmret.benchmarks.genecis.scorer import load as load_tasks

    tasks = load_tasks(golden / "genecis")
    assert {n: (len(t.templates), {len(x.candidates) for x in t.templates}) for n, t in tasks.items()} == {
        "focus_attribute": (2000, {10}),
        "change_attribute": (2112, {15}),
        "focus_object": (1960, {15}),
        "change_object": (1960, {15}),
    }
