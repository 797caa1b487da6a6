"""Work on a thread that ends with it, so that the main thread of a benchmark computes nothing.

torch keeps a team of threads for every thread that has computed, for as long as that one lives. With more of them than
cores they sleep between two operations, and everything takes longer: only one may live at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["on_a_thread"]

T = TypeVar("T")


def on_a_thread(work: Callable[..., T], *args: Any) -> T:
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(work(*args)))
    thread.start()
    thread.join()
    return results[0]
