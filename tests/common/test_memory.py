"""Arrays in files without a name."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest

from netadapt_onnx.common import memory
from netadapt_onnx.common.memory import ALIGNMENT, MappedArrays, return_free_memory, share_heap

ARRAYS = {
    "x": np.arange(10, dtype=np.uint8),
    "y": np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32),
    "one": np.array(2.5),
    "none": np.zeros((0, 4)),
}


def check(mapped: MappedArrays, arrays: dict[str, np.ndarray]) -> None:
    assert mapped.arrays.keys() == arrays.keys()
    for name, value in arrays.items():
        kept = mapped.arrays[name]
        assert (kept.dtype, kept.shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(kept, value)


def test_arrays_in_a_file_are_what_they_were_before_and_after_a_rest() -> None:
    mapped = MappedArrays(ARRAYS)
    check(mapped, ARRAYS)
    assert all(not value.flags.writeable and value.ctypes.data % ALIGNMENT == 0 for value in mapped.arrays.values())
    mapped.rest()
    return_free_memory()
    check(mapped, ARRAYS)


def test_arrays_outlive_the_object_that_mapped_them() -> None:
    kept = MappedArrays(ARRAYS).arrays["y"]
    np.testing.assert_array_equal(kept, ARRAYS["y"])


@pytest.mark.parametrize(
    "arrays", [{}, {"none": np.zeros(0)}, {"words": np.array(["a", None], object)}], ids=["no", "empty", "objects"]
)
def test_what_cannot_be_mapped_stays_as_it_is(arrays: dict[str, np.ndarray]) -> None:
    mapped = MappedArrays(arrays)
    check(mapped, arrays)
    mapped.rest()


def test_arrays_stay_in_memory_where_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    mapped = MappedArrays(ARRAYS)
    check(mapped, ARRAYS)
    mapped.rest()


def test_threads_share_one_heap_where_the_c_library_has_many(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    class Glibc:
        def mallopt(self, option: int, value: int) -> int:
            calls.append((option, value))
            return 1

    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: Glibc())
    share_heap()
    return_free_memory()  # it has no malloc_trim
    assert calls == [(-8, 1)]


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    share_heap()
    return_free_memory()
