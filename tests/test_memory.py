"""Memory that is free inside the process goes back to the system, where the C library can do it."""

import platform

import numpy as np
import psutil
import pytest

from mmret.memory import give_back


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what is free")
def test_what_was_freed_between_two_that_stay_is_given_back():
    own = psutil.Process()
    blocks = [np.ones(12_000) for _ in range(1000)]  # 96 KB each, below the size that is mapped on its own
    kept = blocks[::50]
    del blocks
    before = own.memory_info().rss
    give_back()
    assert before - own.memory_info().rss > 50e6
    assert all(block.sum() == 12_000 for block in kept)
