"""Programs that end at their n-th change to the disk, by a signal that no handler sees."""

# Code for the top of a program: `fatal` is the number of that change (0: none), `counted(f)` a function that counts.
DIE_AT_CHANGE = """
import os, signal

changes, fatal = 0, 0

def counted(change):
    def change_or_die(*args, **options):
        global changes
        changes += 1
        if changes == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return change(*args, **options)
    return change_or_die
"""
