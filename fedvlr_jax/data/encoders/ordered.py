"""A map over threads that keeps the order and never runs far ahead of whoever takes its results."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Generator[Result, None, None]:
    """Yields ``function(item)`` in the order of the items.

    Args:
      function: called in threads.
      items: taken one by one, as results are.
      workers: threads.
      ahead: the most results that are computed or under way and not taken yet, at least 1; bounds memory.

    Raises:
      Exception: whatever `function` raises, at its item; what was under way is waited for, what was not is dropped.
    """
    source = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        try:
            waiting: deque[Future[Result]] = deque(
                pool.submit(function, item) for item in itertools.islice(source, ahead)
            )
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in itertools.islice(source, 1))
        finally:
            pool.shutdown(cancel_futures=True)
