"""Work side by side: in order, bounded, and only where the context has threads to spare."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Barrier, Event, current_thread

import pytest

from netadapt_onnx.common.parallel import in_order, spare_threads


def test_results_come_in_the_order_of_the_items_though_later_ones_are_done_first() -> None:
    second_is_done = Event()

    def work(number: int) -> int:
        if number == 1:
            second_is_done.set()
        elif number == 0:
            assert second_is_done.wait(10)
        return number * number

    with spare_threads(2):
        assert list(in_order(work, range(6))) == [0, 1, 4, 9, 16, 25]


def test_as_many_items_are_computed_at_a_time_as_there_are_threads() -> None:
    together = Barrier(3, timeout=10)
    with spare_threads(3):
        assert sorted(in_order(lambda _: together.wait(), range(3))) == [0, 1, 2]


def test_without_threads_to_spare_everything_happens_in_the_callers_own_one() -> None:
    assert set(in_order(lambda _: current_thread(), range(3))) == {current_thread()}
    with spare_threads(0):
        assert set(in_order(lambda _: current_thread(), range(3))) == {current_thread()}


def test_work_inside_of_work_is_not_shared_out_again() -> None:
    """Jobs that run side by side have no threads to spare."""
    with spare_threads(2):
        inner = list(in_order(lambda _: (current_thread(), *in_order(lambda _: current_thread(), range(3))), range(2)))
    assert all(len(set(threads)) == 1 for threads in inner)
    assert current_thread() not in {thread for threads in inner for thread in threads}


def test_no_more_items_are_begun_than_threads_lie_ahead() -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            begun.append(number)
            yield number

    with spare_threads(2):
        results = in_order(lambda number: number, items())
        assert next(results) == 0
        assert len(begun) == 3
        results.close()  # type: ignore[attr-defined]


def test_an_error_reaches_the_caller_where_its_item_would_have() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    with spare_threads(2):
        results = in_order(work, range(5))
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ValueError, match="two"):
            next(results)
