"""`python -m netadapt_onnx` and `netadapt-onnx`: the command line, from its first import on safe from Ctrl-C."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line. `cli.run` answers for what happens in it; this for Ctrl-C before and after."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell, `>&-`: nobody reads it
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
    try:
        from netadapt_onnx.cli import main as command_line

        command_line()
    except KeyboardInterrupt:
        if "--json" in sys.argv:
            sys.stdout.write('{"schema": 1, "ok": false, "interrupted": true}\n')
        sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
