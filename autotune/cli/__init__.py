"""The command line `tritonconv-autotune`, also `python -m autotune`: one module a family of verbs.

Data goes to stdout, everything else to stderr. Exit codes: 0; 1 if differences or failures were
found; 2 for wrong usage; 130 after Ctrl-C.
"""

from .group import cli, main

__all__ = ["cli", "main"]
