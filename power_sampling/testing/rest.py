"""Whether work was really stopped: for tests of cancelled requests and closed streams."""

from __future__ import annotations

import time

__all__ = ["comes_to_rest"]


def comes_to_rest(seconds: float = 8.0) -> bool:
    """Whether the process stops computing within that time: half a second in which it uses a hundredth of one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = time.process_time()
        time.sleep(0.5)
        if time.process_time() - before < 0.01:
            return True
    return False
