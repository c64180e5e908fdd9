"""Finding a library whose kernels can be tuned, by its name."""

import importlib
from importlib.metadata import entry_points

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


def installed() -> dict[str, str]:
    """The providers that installed packages announce: "module:attribute" by name."""
    return {point.name: point.value for point in entry_points(group=GROUP)}
