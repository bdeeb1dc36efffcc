"""What happens before a command is looked at."""

import gc

import mmret.cli
from mmret.__main__ import main


def test_the_collector_looks_less_often_while_libraries_load(monkeypatch):
    found = []
    monkeypatch.setattr(gc, "set_threshold", lambda *threshold: found.append(threshold))
    monkeypatch.setattr(mmret.cli, "main", lambda: found.append("loaded"))
    main()
    assert found[0][0] >= 20_000 and found[1] == "loaded"
