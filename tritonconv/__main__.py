"""The command line: python -m tritonconv demo, or gallery."""

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

# Module and package of what the commands need beside the library's own dependencies.
DEMO_NEEDS = {"matplotlib": "matplotlib", "sklearn": "scikit-learn", "rich": "rich"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status."""
    arguments = _parser().parse_args(argv)
    return arguments.command(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tritonconv", description="Convolutions written by hand in Triton."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="find edges in a photograph, learn to read digits, check the kernels",
        description="Finds edges in a photograph, trains a small network to read digits, and "
        "checks its convolutions against float64 sums. About half a minute without a GPU.",
    )
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("out"),
        metavar="DIR",
        help="folder for the two pictures, made if missing (default: %(default)s)",
    )
    demo.add_argument(
        "--epochs",
        type=_positive,
        default=40,
        metavar="N",
        help="times that training sees every digit (default: %(default)s)",
    )
    demo.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the held-out split and the training (default: %(default)s)",
    )
    # The third part alone, in a process of its own: see tritonconv.demo.
    demo.add_argument("--deviations-only", type=Path, help=argparse.SUPPRESS)
    demo.set_defaults(command=_demo)

    gallery = commands.add_parser(
        "gallery",
        help="draw filter banks that need no labels, and what they see in a photograph",
        description="Draws three banks of filters, random, designed by hand and learned from a "
        "photograph alone, each beside its responses to the photograph. A few seconds.",
    )
    gallery.add_argument(
        "--out",
        type=Path,
        default=Path("out"),
        metavar="DIR",
        help="folder for the three pictures, made if missing (default: %(default)s)",
    )
    gallery.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the random and the learned filters (default: %(default)s)",
    )
    gallery.set_defaults(command=_gallery)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {value}")
    return value


def _demo(arguments: argparse.Namespace) -> int:
    if _lacks("The demonstration"):
        return 2
    from . import demo

    if arguments.deviations_only is not None:
        return demo.check(arguments.deviations_only)
    return demo.run(arguments.out, arguments.epochs, arguments.seed)


def _gallery(arguments: argparse.Namespace) -> int:
    if _lacks("The gallery"):
        return 2
    from . import demo

    return demo.run_gallery(arguments.out, arguments.seed)


def _lacks(command: str) -> bool:
    """Whether a package is missing that the commands need; if so, says which."""
    missing = [package for module, package in DEMO_NEEDS.items() if find_spec(module) is None]
    if missing:
        print(
            f"{command} needs {' and '.join(missing)}, which this Python lacks. "
            'Install it with: pip install "tritonconv[demo]"',
            file=sys.stderr,
        )
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())
