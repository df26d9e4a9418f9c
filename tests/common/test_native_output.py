"""What C libraries print does not get into a program's result."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from netadapt_onnx.common.native_output import native_stdout_discarded

PRINTING = """
import ctypes
from netadapt_onnx.common.native_output import native_stdout_discarded
library = ctypes.CDLL(None)
library.printf(b"before ")
with native_stdout_discarded():
    library.printf(b"debugging ")
library.printf(b"after ")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="another C library")
def test_only_what_is_printed_meanwhile_is_dropped() -> None:
    """stdout is a pipe here, so that the C library keeps what it prints until it is told, or the process ends."""
    printed = subprocess.run([sys.executable, "-c", PRINTING], capture_output=True, text=True, check=True).stdout
    assert printed == "before after "


@pytest.mark.skipif(sys.platform == "win32", reason="another C library")
def test_stdout_comes_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="wrong"), native_stdout_discarded():
        os.write(1, b"lost")
        ctypes.CDLL(None).printf(b"lost, too")
        raise ValueError("wrong")
    os.write(1, b"seen")
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == "seen"


def test_a_closed_stdout_is_none_to_discard() -> None:
    closing = (
        "import os, sys; os.close(1)\n"
        + PRINTING.split("library")[0]
        + ("with native_stdout_discarded():\n    done = True\nassert done\n")
    )
    subprocess.run([sys.executable, "-c", closing], check=True)
