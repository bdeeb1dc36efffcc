"""Loaded by Python where this folder is on PYTHONPATH: moves the wall clock of the process by MMRET_TEST_CLOCK seconds."""

import os
import time

_by = int(os.environ.get("MMRET_TEST_CLOCK", "0"))
if _by:
    _time, _time_ns = time.time, time.time_ns
    time.time = lambda: _time() + _by
    time.time_ns = lambda: _time_ns() + _by * 10**9
