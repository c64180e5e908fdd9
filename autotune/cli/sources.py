"""Where `tune`, `precompile` and `plot` have their problems from."""

import dataclasses
import functools
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click

from ..exchange import Filter
from ..key import Gpu, Key
from ..task import Provider
from .options import Tool
from .output import note, problem
from .picking import by_prefix, digest_argument, known_keys, missed_keys

_DTYPES = ("float16", "bfloat16", "float32", "float64", "int64")


@dataclass(frozen=True)
class Sources:
    """What the command line names; any of them together."""

    digests: tuple[str, ...]
    model: str | None
    inputs: tuple[tuple[int, ...], ...]
    input_dtype: str
    shapes: str | None
    suite: bool
    misses: bool
    target: str | None

    def any(self) -> bool:
        """Whether one was named."""
        return bool(self.digests or self.model or self.shapes or self.suite or self.misses)


def problem_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """DIGEST..., --model, --input, --shapes, --suite, --misses, --target: given as `sources`."""

    @digest_argument(nargs=-1, metavar="[DIGEST]...")
    @click.option(
        "--model", metavar="MODULE:BUILD", help="What BUILD() meets, forward and backward."
    )
    @click.option(
        "--input",
        "inputs",
        multiple=True,
        callback=lambda _ctx, _param, values: tuple(_shape(value) for value in values),
        metavar="SHAPE",
        help="Of the model, such as 8x3x224x224; once an argument.",
    )
    @click.option("--input-dtype", type=click.Choice(_DTYPES), default="float32", show_default=True)
    @click.option(
        "--shapes",
        metavar="FILE",
        help="One problem a line: a JSON object, or name=value pairs. - is stdin.",
    )
    @click.option("--suite", is_flag=True, help="The library's benchmark suite.")
    @click.option("--misses", is_flag=True, help="What found no record (see `misses`).")
    @click.option("--target", metavar="ARCH", help="A GPU that need not be there, such as sm_90.")
    @functools.wraps(function)
    def wrapped(*args: Any, **given: Any) -> Any:
        named = {field.name: given.pop(field.name) for field in dataclasses.fields(Sources)}
        sources = Sources(**named)
        if not sources.any():
            raise click.UsageError(
                "problems: expected some, got none; name digests, --model, --shapes, --suite "
                "or --misses"
            )
        if bool(sources.model) != bool(sources.inputs):
            raise click.UsageError("--model and --input: expected both, got one")
        return function(*args, sources=sources, **given)

    return wrapped


def problems(tool: Tool, sources: Sources, meant: Filter) -> list[Key]:
    """The problems, each once, for the GPU that is there or that --target names."""
    known = known_keys(tool.store) if sources.digests else {}
    chosen = [by_prefix(prefix, known) for prefix in sources.digests]
    missed = [key for key, _ in missed_keys(tool.store)] if sources.misses else []
    found: list[Key] = []
    for name in sorted({key.provider for key in (*chosen, *missed)}):
        try:
            provider = tool.load(tool.name_of(name))
        except ValueError as error:
            raise click.ClickException(str(error)) from None
        gpu = tool.gpu(provider, sources.target)
        found += [_moved(key, gpu) for key in chosen if key.provider == name]
        found += _still_missing(tool, [key for key in missed if key.provider == name], gpu)
    if sources.model or sources.shapes or sources.suite:
        provider = tool.load(tool.only())
        gpu = tool.gpu(provider, sources.target)
        found += _from_provider(provider, sources, gpu)
    unique = {key.digest: key for key in found if meant.problem(key)}
    return list(unique.values())


def described(provider: Provider, text: str, where: str, gpu: Gpu) -> list[Key]:
    """The problems of one line. Raises UsageError, which says where the line is."""
    try:
        return list(provider.from_shape(_description(text), gpu))
    except ValueError as error:
        raise click.UsageError(f"{where}: {error}") from None


def _from_provider(provider: Provider, sources: Sources, gpu: Gpu) -> Iterator[Key]:
    if sources.suite:
        yield from provider.suite(gpu)
    if sources.shapes:
        for number, text in _lines(sources.shapes):
            yield from described(provider, text, f"{sources.shapes}, line {number}", gpu)
    if sources.model:
        yield from _of_model(provider, sources, gpu)


def _of_model(provider: Provider, sources: Sources, gpu: Gpu) -> Iterable[Key]:
    """The model's problems; what it and its library raise is the user's own to see."""
    import torch

    module, _, attribute = str(sources.model).partition(":")
    if not module or not attribute:
        raise click.UsageError(f"--model: expected module:build, got {sources.model!r}")
    if os.getcwd() not in sys.path:  # an installed script has its own folder there instead
        sys.path.insert(0, os.getcwd())
    try:
        build = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise click.UsageError(f"--model: {sources.model} cannot be loaded: {error}") from None
    dtype = getattr(torch, sources.input_dtype)
    inputs = [torch.zeros(shape, dtype=dtype) for shape in sources.inputs]
    return list(provider.from_model(build(), inputs, gpu))


def _moved(key: Key, gpu: Gpu) -> Key:
    """The same problem on this GPU."""
    if key.gpu == gpu:
        return key
    moved = Key(key.provider, key.op, key.fields, key.sizes, gpu)
    note(f"{problem(key)}: taken for {gpu.model}, as {moved.digest[:12]}")
    return moved


def _still_missing(tool: Tool, keys: list[Key], gpu: Gpu) -> list[Key]:
    """Those of this GPU that have no current record by now."""
    here = [key for key in keys if key.gpu == gpu]
    if len(here) < len(keys):
        note(f"{len(keys) - len(here)} misses are of other GPUs than {gpu.model}; passed over")
    left = [key for key in here if not _is_current(tool, key)]
    if len(left) < len(here):
        note(f"{len(here) - len(left)} misses have a record by now; passed over")
    return left


def _is_current(tool: Tool, key: Key) -> bool:
    entry = tool.store.get(key)
    if entry is None or entry.record.build is None:
        return False
    try:
        task = tool.task(key)
    except ValueError:
        return False  # tuning it says why
    candidate = entry.candidate
    return task.is_legal(candidate) and task.build(candidate) == entry.record.build.build()


def _lines(place: str) -> Iterator[tuple[int, str]]:
    """The lines that say something, by number."""
    try:
        if place == "-":
            text = sys.stdin.read()
        else:
            with open(place, encoding="utf-8") as file:
                text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--shapes: {place} cannot be read: {error}") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip()


def _description(text: str) -> Mapping[str, Any]:
    """A JSON object, or `op=conv N=8 stride=[2,2]`, whose values are JSON or else text."""
    if text.startswith("{"):
        return json.loads(text)  # an error of its own is a ValueError
    found: dict[str, Any] = {}
    for pair in text.split():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"expected a JSON object or name=value pairs, got {pair!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(size) for size in text.lower().split("x"))
    except ValueError:
        shape = (-1,)
    if min(shape) < 0:
        raise click.BadParameter(f"expected sizes such as 8x3x224x224, got {text!r}")
    return shape
