"""The verbs, each imported when it is asked for, and what all of them have in common."""

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import click

INTERRUPTED = 130
# What a shell reports of a program that a closed pipe ended: 128 + SIGPIPE.
BROKEN_PIPE = 141

VERBS = {
    "dir": "places:directory",
    "info": "places:info",
    "list": "listing:list_records",
    "show": "listing:show",
    "explain": "explaining:explain_choice",
    "diff": "comparing:diff",
    "tune": "tuning:tune_problems",
    "precompile": "precompiling:precompile",
    "misses": "missing:misses",
    "export": "exchanging:export",
    "import": "exchanging:import_files",
    "merge": "exchanging:merge_files",
    "verify": "verifying:verify",
    "prune": "deleting:prune",
    "remove": "deleting:remove",
    "clean": "deleting:clean",
    "plot": "plotting:plot",
}


class Verbs(click.Group):
    """Knows the verbs by name, and turns what they raise into an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of use."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb of a name."""
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name].partition(":")
        return getattr(importlib.import_module(f".{module}", __package__), attribute)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb."""
        try:
            with _warnings_as_lines():
                code = super().invoke(ctx)
                # Here, because a closed pipe that is met while Python ends cannot be kept quiet.
                sys.stdout.flush()
                return code
        except BrokenPipeError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return BROKEN_PIPE
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            return INTERRUPTED

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run and exit; with `standalone_mode=False` return or raise as click does."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                # A terminal that knows no "×" is no reason to stop.
                stream.reconfigure(errors="backslashreplace")  # pyright: ignore
        try:
            code = super().main(*args, standalone_mode=False, **extra)
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except click.Abort:
            click.echo("stopped", err=True)
            code = 1
        sys.exit(code if isinstance(code, int) else 0)


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Each warning once, as one line on stderr without Python's source line."""
    said: set[str] = set()

    def show(message: Any, *_: Any, **__: Any) -> None:
        from .output import plain

        text = plain(str(message))
        if text not in said:
            said.add(text)
            click.echo(f"warning: {text}", err=True)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", message="autotune: ")
        warnings.showwarning = show
        yield


EPILOG = """\b
Shell completion, for bash, zsh or fish:
  eval "$(_TRITONCONV_AUTOTUNE_COMPLETE=bash_source tritonconv-autotune)"
"""


@click.group(cls=Verbs, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Records of tuning: look at them, make them, check them, hand them on.

    Data goes to stdout, progress to stderr. Exit codes: 0; 1 where differences or failures were
    found; 2 for wrong usage; 130 after Ctrl-C.
    """


def main() -> None:
    """Run the command line on the arguments of this process."""
    cli()
