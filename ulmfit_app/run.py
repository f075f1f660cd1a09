"""`python -m ulmfit_app.run DATA` is `python -m ulmfit_app run DATA`."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "run")
    runpy.run_module("ulmfit_app", run_name="__main__", alter_sys=True)
