"""`python -m autotune`: the same as `tritonconv-autotune`."""

from .cli import main

if __name__ == "__main__":
    main()
