"""Options that several verbs have, and what they make of them."""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from .. import providers
from ..exchange import Filter
from ..key import Gpu, Key
from ..store import Store
from ..task import Provider, Task

Function = Callable[..., Any]


@dataclass
class Tool:
    """What every verb is given: how to print, the records, the library that is tuned."""

    json: bool
    cache_dir: str | None
    provider: str | None = None

    @cached_property
    def store(self) -> Store:
        """The records of --cache-dir, and what the installed libraries ship."""
        names = [self.provider] if self.provider else list(self._installed.values())
        folders = [folder for folder in map(providers.shipped, names) if folder is not None]
        # One library's records ship with it; those of a second one are read like a directory.
        return Store(self.cache_dir, shipped=folders[0] if folders else None)

    def name_of(self, provider: str) -> str:
        """The "module:attribute" of a library that keys name. Raises ValueError."""
        if self.provider:
            loaded = providers.load(self.provider)
            if loaded.name != provider:
                raise ValueError(
                    f"provider: expected {provider!r}, got --provider {self.provider} of "
                    f"{loaded.name!r}; name the library that the record is of"
                )
            return self.provider
        if provider not in self._installed:
            has = ", ".join(sorted(self._installed)) or "none"
            raise ValueError(
                f"provider: expected an installed one, got {provider!r} (installed: {has}); "
                "install it, or name it by --provider module:attribute"
            )
        return self._installed[provider]

    def only(self) -> str:
        """The "module:attribute" to ask where no key says whose it is."""
        found = [self.provider] if self.provider else list(self._installed.values())
        if len(found) != 1:
            has = ", ".join(sorted(self._installed)) or "none"
            raise click.UsageError(
                f"provider: expected one, got {len(found)} installed ({has}); "
                "name it by --provider module:attribute"
            )
        return found[0]

    def load(self, name: str) -> Provider:
        """The library at "module:attribute"."""
        try:
            return providers.load(name)
        except ValueError as error:
            raise click.ClickException(str(error)) from None

    def task(self, key: Key) -> Task:
        """The task of a key. Raises ValueError where no library has one."""
        return providers.load(self.name_of(key.provider)).task(key)

    def gpu(self, provider: Provider, target: str | None) -> Gpu:
        """This machine's GPU, or the one that --target stands for."""
        try:
            return provider.gpu(target)
        except ValueError as error:
            raise click.UsageError(f"--target: {error}") from None
        except RuntimeError as error:
            raise click.ClickException(
                f"{error}\nWithout a GPU nothing can be measured. `precompile --target sm_90` "
                "compiles, and `tune --dry-run --target sm_90` lists what would be tuned."
            ) from None

    @cached_property
    def _installed(self) -> dict[str, str]:
        return providers.installed()


def common(function: Function) -> Function:
    """--json, --cache-dir and --provider; the function's first argument is the Tool."""

    @click.option(
        "--provider",
        metavar="NAME",
        callback=lambda _ctx, _param, value: _provider_name(value),
        help="The library whose kernels these are: its name, or module:attribute.",
    )
    @click.option("--cache-dir", metavar="DIR", help="Where the records are. [else the user's]")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @functools.wraps(function)
    def wrapped(
        *args: Any, cache_dir: str | None, as_json: bool, provider: str | None, **more: Any
    ) -> Any:
        return function(Tool(as_json, cache_dir, provider), *args, **more)

    return wrapped


target_option = click.option(
    "--target", metavar="ARCH", help="A GPU that need not be there, such as sm_90."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Only say what would be done.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def filters(function: Function) -> Function:
    """--op, --gpu, --dtype and --variant; the function is given `meant`, a Filter."""

    @click.option("--op", default="*", metavar="GLOB", help="Only this op.")
    @click.option("--gpu", default="*", metavar="GLOB", help="Only this GPU, by model or arch.")
    @click.option("--dtype", default="*", metavar="GLOB", help="Only this dtype.")
    @click.option("--variant", default="*", metavar="GLOB", help="Only where this variant won.")
    @functools.wraps(function)
    def wrapped(*args: Any, op: str, gpu: str, dtype: str, variant: str, **more: Any) -> Any:
        return function(*args, meant=Filter(op, gpu, variant, dtype), **more)

    return wrapped


def agreed(question: str, yes: bool) -> None:
    """Go on if the person agrees. Raises UsageError where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody can be asked here; say --yes, or --dry-run.")
    click.confirm(question, abort=True, err=True)


def existing(path: str) -> Path:
    """A path that is there. Raises UsageError."""
    found = Path(path).expanduser()
    if not found.exists():
        raise click.UsageError(f"{path}: expected a file or directory, got nothing; check the path")
    return found


def _provider_name(value: str | None) -> str | None:
    if value is None or ":" in value:
        return value
    known = providers.installed()
    if value not in known:
        has = ", ".join(sorted(known)) or "none"
        raise click.BadParameter(
            f"expected module:attribute or the name of an installed one ({has}), got {value!r}"
        )
    return known[value]
