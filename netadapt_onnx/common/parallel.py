"""Work side by side in threads, where the context says that there are cores to spare.

How many threads there are is a context variable, for the same reason as in `progress.py`: the functions that have
independent work lie deep below the one that knows whether anything else is running. A thread starts with one, so that
jobs that run side by side share nothing out themselves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_threads: ContextVar[int] = ContextVar("threads", default=1)


@contextmanager
def spare_threads(count: int) -> Iterator[None]:
    """A context in which `in_order` computes so many items at a time."""
    token = _threads.set(max(1, count))
    try:
        yield
    finally:
        _threads.reset(token)


def in_order(function: Callable[[T], R], items: Iterable[T], threads: int | None = None) -> Iterator[R]:
    """The function of each item, in order; with threads to spare the next ones are computed meanwhile.

    What comes out does not depend on how many there are, as long as the function gives the same for an item whatever
    runs beside it. Between the one that is handed out and the last one begun lie no more than there are threads.

    Args:
        function: Computes an item.
        items: The items, which are taken in this thread.
        threads: How many compute at a time; None: as many as the context spares.
    """
    count = _threads.get() if threads is None else threads
    if count == 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(count)
    begun: deque[Future[R]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) > count:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
