"""Finding a library whose kernels can be tuned, by its name."""

import importlib
import importlib.util
from importlib.metadata import entry_points
from pathlib import Path

from .task import Provider

GROUP = "autotune.providers"


def load(name: str) -> Provider:
    """The provider at "module:attribute". Raises ValueError where there is none."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"provider: expected module:attribute, got {name!r}")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"provider: {name} cannot be loaded: {error}") from error


def shipped(name: str) -> Path | None:
    """The folder `tuned` of a provider's package, where its records ship; imports nothing."""
    try:
        spec = importlib.util.find_spec(name.partition(":")[0].partition(".")[0])
    except (ImportError, ValueError):
        return None
    for place in (spec and spec.submodule_search_locations) or ():
        if Path(place, "tuned").is_dir():
            return Path(place, "tuned")
    return None


def installed() -> dict[str, str]:
    """The providers that installed packages announce: "module:attribute" by name."""
    return {point.name: point.value for point in entry_points(group=GROUP)}
