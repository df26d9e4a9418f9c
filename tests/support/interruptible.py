"""Commands that an interrupt reaches wherever the tests run.

Behind nohup and in a shell's background SIGINT is ignored, by everything started there too (POSIX, 2.11): a program
whose Ctrl-C is tested is started through `DEFAULT_SIGINT`, which has the system's default again.
"""

import sys

CODE = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"
DEFAULT_SIGINT = [sys.executable, "-c", CODE]
