"""The one place that asks `autotune` for a config."""

import dataclasses
from collections.abc import Hashable

from autotune import Choice, Config, ConfigTable

from .device import Device
from .problem import ConvProblem, Pass
from .variants import Variant

# Configs put here by a tuner or by hand; empty, so every choice is the variant's analytic one.
TABLE = ConfigTable()


def tuning_key(variant: Variant, problem: ConvProblem, which: Pass, device: Device) -> Hashable:
    """Every field of the problem, so that no argument can be forgotten, and the device."""
    fields = tuple(getattr(problem, field.name) for field in dataclasses.fields(problem))
    return (variant.name, which, fields, device)


def choose_config(variant: Variant, problem: ConvProblem, which: Pass, device: Device) -> Choice:
    """The config to launch with, and where it came from. A stored config is re-validated."""

    def legal(config: Config) -> bool:
        return config in variant.configs(problem, which, device)

    key = tuning_key(variant, problem, which, device)
    return TABLE.choose(key, lambda: variant.default_config(problem, which, device), legal)
