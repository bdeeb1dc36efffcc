"""Which test runs which line: a pytest plugin over coverage.py. Makes tests two to three times slower.

A line that runs while a fixture is made belongs to every test that uses the fixture, not to the one that happened to be first.
What a test's own child processes run is recorded as well, unless it starts them with an environment of its own.

Environment:
    MUTANTS_RECORD: Where the record goes, as JSON:
        ``{"tests": {nodeid: [seconds, [fixture, ...]]}, "failed": [nodeid, ...], "lines": {context: {path: [line, ...]}}}``.
        A context is a node id or the name of a fixture as in ``tests``; only tests that passed are in it.
    MUTANTS_CONTEXT: Set here for child processes, read by ``.coveragerc`` of the record.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

ROOTS = ("mmret", "assets", "resources")
LIBRARY = "importing"


class Recorder:
    def __init__(self, out: Path) -> None:
        self.out = out
        self.tests: dict[str, tuple[float, list[str]]] = {}
        self.failed: set[str] = set()
        self.seconds: dict[str, float] = defaultdict(float)
        self.contexts: list[str] = []
        rc = out.with_suffix(".coveragerc")
        roots = "\n    ".join(str(Path.cwd() / root) for root in ROOTS)
        rc.write_text(
            f"[run]\ndata_file = {out.with_suffix('.coverage')}\ncontext = ${{MUTANTS_CONTEXT-{LIBRARY}}}\nparallel = true\n"
            f"sigterm = true\nrelative_files = true\nsource =\n    {roots}\n"
        )
        os.environ["COVERAGE_PROCESS_START"] = str(rc)
        self.coverage = coverage.Coverage(config_file=str(rc))
        self.coverage.set_option("run:context", None)  # here it changes from test to test; the file's is for child processes
        self.coverage.start()

    def enter(self, context: str) -> None:
        self.contexts.append(context)
        self._switch(context)

    def leave(self) -> None:
        self.contexts.pop()
        self._switch(self.contexts[-1] if self.contexts else "")

    def _switch(self, context: str) -> None:
        self.coverage.switch_context(context)
        os.environ["MUTANTS_CONTEXT"] = context or LIBRARY

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.enter(item.nodeid)
        try:
            return (yield)
        finally:
            self.leave()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef) -> Iterator[None]:
        if fixturedef.scope == "function":
            return (yield)
        self.enter(f"{fixturedef.baseid}::{fixturedef.argname}")
        try:
            return (yield)
        finally:
            self.leave()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        made = [f"{d.baseid}::{name}" for name, all_ in item._fixtureinfo.name2fixturedefs.items() for d in all_]
        self.tests[item.nodeid] = (0.0, made)
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        self.coverage.save()
        combined = coverage.Coverage(config_file=os.environ["COVERAGE_PROCESS_START"])
        combined.combine()
        data = combined.get_data()
        lines: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for path in data.measured_files():
            for line, contexts in data.contexts_by_lineno(path).items():
                for context in contexts:
                    lines[context or LIBRARY][path].append(line)
        tests = {name: (round(self.seconds[name], 2), made) for name, (_, made) in self.tests.items() if name not in self.failed}
        self.out.write_text(json.dumps({"tests": tests, "failed": sorted(self.failed), "lines": lines}))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Recorder(Path(os.environ["MUTANTS_RECORD"])), "recorder of lines")
