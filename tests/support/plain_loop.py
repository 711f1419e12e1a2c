"""`python -m tests.support.plain_loop MODULE ARGUMENTS…`: a program as it runs where uvloop is not installed."""

import runpy
import sys

if __name__ == "__main__":
    sys.modules["uvloop"] = None  # type: ignore[assignment]
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
