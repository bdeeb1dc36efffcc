"""``make mutants``: plants one-line faults drawn at random, runs the tests that reach them and says how many were noticed.

    make mutants                                    300 faults over all packages, recorded in tests/mutants/score.yaml
    make mutants MUTANTS=20 ONLY=mmret/mine         20 in one package (or file), recorded nowhere
    make mutants MUTANTS=20 ONLY=mmret/mine SEED=7  20 others
    make mutants AGAIN=1                            those that the last run missed, once more: what new tests notice of them

Statements are drawn, then a fault for each: a long call is no likelier than a comparison. First every test that is new or runs code
that has changed is run once, to record which lines it runs (all tests: some 25 minutes). A fault then costs what
the tests that reach it cost, the quick ones first, until one fails: 300 take an hour or two on two cores. A fault that no test
notices is a hole, or changes nothing: the latter are listed with the reason in ``score.yaml`` and drawn no more.
"""

import argparse
import datetime
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import yaml

from tests.mutants.faults import Fault, Statement, statements
from tests.mutants.selection import Records, Selection
from tests.mutants.warm import Copy, Job, Outcome, outcomes, warm_up

CHECKOUT = Path(__file__).resolve().parents[2]
FOLDER = CHECKOUT / ".mutants"
LOG = FOLDER / "last.jsonl"
SCORE = Path(__file__).with_name("score.yaml")
PACKAGES = [f"mmret/{name}" for name in "mine retriever annotate lake freshness ingest benchmarks".split()] + ["assets"]


def package_of(path: str) -> str:
    return next(package for package in PACKAGES if path.startswith(f"{package}/"))


def python_files(only: Iterable[str]) -> list[Path]:
    found = [p for top in only for p in ([CHECKOUT / top] if (CHECKOUT / top).is_file() else (CHECKOUT / top).rglob("*.py"))]
    return sorted(found)


def draw(only: list[str], size: int, seed: int, known: dict) -> list[Fault]:
    """``size`` faults in as many statements, none of those known to change nothing nor in files that no test can run."""
    places: list[Statement] = []
    for path in python_files(only):
        if path.relative_to(CHECKOUT).as_posix() not in known["not_tested"]:
            places += statements(path, CHECKOUT)
    random, drawn = Random(seed), []
    for place in random.sample(places, len(places)):
        if fault := next((f for f in place.faults(random) if f.name not in known["equivalent"]), None):
            drawn.append(fault)
        if len(drawn) == size:
            break
    return drawn


def missed_last_time(known: dict, options: argparse.Namespace) -> tuple[list[Fault], list[dict]]:
    """The faults that the last run missed, as far as the code still has their statements, and what the log says of the others.

    ``options`` become what the sample was drawn with.
    """
    drawn_with, *said = map(json.loads, LOG.read_text().splitlines())
    vars(options).update(drawn_with)
    wanted = {each["fault"] for each in said if each["verdict"] == "missed"} - known["equivalent"].keys()
    befores = {name.split(": ", 1)[1].split(" => ")[0] for name in wanted}
    faults: dict[str, Fault] = {}
    for path in sorted({CHECKOUT / name.split(":")[0] for name in wanted}):
        lines = path.read_text().splitlines() if path.exists() else []
        for place in statements(path, CHECKOUT) if lines else []:
            text = " ".join(line.strip() for line in lines[place.lines[0] - 1 : place.lines[1]])
            if any(before in text or text in before for before in befores):  # making every fault of a file takes a minute
                faults |= {fault.name: fault for fault in place.faults(Random(0)) if fault.name in wanted}
    if gone := wanted - faults.keys():
        print(f"{len(gone)} of the faults missed are in statements that are no longer there", file=sys.stderr)
    return list(faults.values()), [each for each in said if each["verdict"] != "missed"]


def record(copies: list[Copy], records: Records, test_files: list[str]) -> None:
    stale = [name for name in test_files if not records.is_current(name)]
    jobs = (
        (name, Job([name, "-p", "tests.mutants.recorder"], 1800, environment={"MUTANTS_RECORD": str(records.path(name))}))
        for name in stale
    )
    for done, (name, outcome) in enumerate(outcomes(copies, jobs), 1):
        print(f"[{done}/{len(stale)}] recorded {name} in {outcome.seconds:.0f} s", file=sys.stderr)
        if records.path(name).exists():
            records.seal(name)
        if outcome.code not in (0, 5):
            print(outcome.output[-2000:], file=sys.stderr)


def plan(drawn: list[Fault], chosen: list[Selection]) -> Iterator[tuple[int, Job]]:
    for number, (fault, selection) in enumerate(zip(drawn, chosen, strict=True)):
        if selection.tests:
            limit = 60 + 5 * selection.seconds
            yield number, Job([*selection.tests, "-x", "--hypothesis-seed=0"], limit, fault.statement.path, fault.source)


def verdict(outcome: Outcome) -> str:
    return "timeout" if outcome.code is None else "missed" if outcome.code == 0 else "found"


def by_whom(outcome: Outcome) -> str:
    failed = [line for line in outcome.output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0][:200] if failed else outcome.output[-200:].strip()


def table(verdicts: list[tuple[str, str]]) -> dict[str, dict[str, int | float]]:
    """Counts by package of (path, verdict)."""
    rows = {}
    for package in [*PACKAGES, "all"]:
        counts = Counter(said for path, said in verdicts if package in ("all", package_of(path)))
        if total := counts.total():
            noticed = counts["found"] + counts["timeout"]
            rows[package] = {"sample": total, "found": counts["found"], "out of time": counts["timeout"]}
            rows[package] |= {"missed": counts["missed"], "percent": round(100 * noticed / total, 1)}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="make mutants")
    parser.add_argument("--mutants", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--tests", nargs="*", default=["tests"], help="files or folders of tests: all, unless said")
    parser.add_argument("--budget", type=float, default=150, help="seconds of tests for one fault at most, as recorded")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="only those that the last run missed")
    options = parser.parse_args()
    known = yaml.safe_load(SCORE.read_text())
    if options.again:
        drawn, earlier = missed_last_time(known, options)
    else:
        drawn, earlier = draw(options.only or PACKAGES, options.mutants, options.seed, known), []
    test_files = sorted(p.relative_to(CHECKOUT).as_posix() for p in python_files(options.tests) if p.name.startswith("test_"))

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    warm_up()
    copies = [Copy(CHECKOUT, FOLDER / f"copy-{os.getpid()}-{i}") for i in range(options.jobs)]
    try:
        records = Records(CHECKOUT, FOLDER / "records")
        record(copies, records, test_files)
        records.load(test_files)
        if records.failed:
            print(f"tests that fail without a fault, left out: {', '.join(records.failed)}", file=sys.stderr)
        chosen = [records.select(fault.statement, options.budget) for fault in drawn]
        verdicts: dict[int, str] = {}
        with LOG.with_suffix(".part").open("w") as log:

            def note(number: int, said: dict) -> None:
                fault, selection = drawn[number], chosen[number]
                verdicts[number] = said["verdict"]
                said |= {"line": fault.statement.lines[0], "fault": fault.name}
                said |= {"tests": len(selection.tests), "left_out": selection.left_out}
                log.write(json.dumps(said) + "\n")
                log.flush()
                print(f"[{len(verdicts)}/{len(drawn)}] {said['verdict']}  {fault.name[:150]}", file=sys.stderr)

            log.writelines(json.dumps(each) + "\n" for each in ({name: vars(options)[name] for name in ("seed", "only")}, *earlier))
            for number in (n for n, selection in enumerate(chosen) if not selection.tests):
                note(number, {"verdict": "missed", "by": ""})
            for number, outcome in outcomes(copies, plan(drawn, chosen)):
                note(number, {"verdict": verdict(outcome), "by": by_whom(outcome), "seconds": round(outcome.seconds, 1)})
        LOG.with_suffix(".part").replace(LOG)
    finally:
        for copy in copies:
            copy.close()
    for number in sorted(n for n, found in verdicts.items() if found == "missed"):
        fault, selection = drawn[number], chosen[number]
        reached = (
            f"{len(selection.tests)} tests reach it, {selection.left_out} not tried" if selection.tests else "no test reaches it"
        )
        print(f"missed, {reached}: line {fault.statement.lines[0]} of {fault.name}")
    counted = [(each["fault"].split(":")[0], each["verdict"]) for each in earlier]
    rows = table(counted + [(drawn[number].statement.path, said) for number, said in verdicts.items()])
    print(yaml.safe_dump(rows, sort_keys=False, width=1000), end="")
    if not options.only and options.tests == ["tests"]:
        when = datetime.datetime.now(datetime.UTC).date().isoformat()
        known["recorded"] = {"date": when, "seed": options.seed, "packages": rows}
        SCORE.write_text(HEAD + yaml.safe_dump(known, sort_keys=False, width=130, allow_unicode=True))


HEAD = """\
# The last full run of `make mutants`, written by it. By hand: `equivalent`, faults that change nothing, each with the reason, and
# `not_tested`, files that no test of `make test` can run.
"""

if __name__ == "__main__":
    main()
