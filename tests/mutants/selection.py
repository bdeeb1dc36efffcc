"""Which tests could notice a fault in a statement: those that run it, by the record of ``recorder``."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.faults import Statement
from tests.mutants.recorder import LIBRARY


@dataclass(frozen=True)
class Selection:
    tests: list[str]
    seconds: float
    left_out: int


def digest(*paths: Path) -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() if path.exists() else b"" for path in paths)).hexdigest()[:16]


class Records:
    """The record of each test file, in a file of its own: it is made again when the test file or code that it runs has changed."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.checkout, self.folder = checkout, folder
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, test_file: str) -> Path:
        return self.folder / f"{test_file.replace('/', '-')}.json"

    def is_current(self, test_file: str) -> bool:
        path = self.path(test_file).with_suffix(".current")
        return path.exists() and json.loads(path.read_text()) == self._state(test_file)

    def seal(self, test_file: str) -> None:
        """Marks the record as belonging to the code as it is."""
        self.path(test_file).with_suffix(".current").write_text(json.dumps(self._state(test_file)))

    def _state(self, test_file: str) -> dict[str, str]:
        record = json.loads(self.path(test_file).read_text())
        used = sorted({path for found in record["lines"].values() for path in found})
        shared = [str(p.relative_to(self.checkout)) for p in sorted((self.checkout / "tests").rglob("conftest.py"))]
        return {path: digest(self.checkout / path) for path in [test_file, *shared, *used]}

    def load(self, test_files: Iterable[str]) -> None:
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []
        self.runs: dict[tuple[str, int], set[str]] = defaultdict(set)
        self.imports: dict[str, set[str]] = defaultdict(set)
        for test_file in test_files:
            if not self.path(test_file).exists():
                continue
            record = json.loads(self.path(test_file).read_text())
            self.failed += record["failed"]
            users = defaultdict(set)
            for name, (seconds, fixtures) in record["tests"].items():
                self.seconds[name] = seconds
                users[name].add(name)
                for fixture in fixtures:
                    users[fixture].add(name)
            for context, files in record["lines"].items():
                for path, lines in files.items():
                    self.imports[path] |= record["tests"].keys()
                    if context != LIBRARY:
                        for line in lines:
                            self.runs[path, line] |= users[context]

    def select(self, statement: Statement, budget: float) -> Selection:
        """Tests that run the statement; of one that runs at import, those that import its file: its own package's files first.

        Those beyond ``budget`` seconds of recorded time are left out.
        """
        first, last = statement.lines
        if statement.once:
            found = self.imports[statement.path]
        else:
            found = set().union(*(self.runs[statement.path, line] for line in range(first, last + 1)))
        package = statement.path.removeprefix("mmret/").split("/")[0]
        files = defaultdict(list)
        for name in sorted(found & self.seconds.keys(), key=list(self.seconds).index):
            files[name.split("::")[0]].append(name)
        order = sorted(files, key=lambda f: (not f.startswith(f"tests/{package}/"), sum(self.seconds[n] for n in files[f])))
        chosen, seconds, left_out = [], 0.0, 0
        for name in (name for file in order for name in files[file]):
            if chosen and seconds + self.seconds[name] > budget:
                left_out += 1
            else:
                chosen.append(name)
                seconds += self.seconds[name]
        return Selection(chosen, seconds, left_out)
