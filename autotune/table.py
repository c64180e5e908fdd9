"""A table of configs by key, with a default for every key that is not in it."""

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from .config import Config


@dataclass(frozen=True)
class Choice:
    """A config and where it came from: `"table"` or `"default"`."""

    config: Config
    source: str


class ConfigTable:
    """Configs by key, safe to use from several threads."""

    def __init__(self) -> None:
        self._configs: dict[Hashable, Config] = {}
        self._lock = threading.Lock()

    def put(self, key: Hashable, config: Config) -> None:
        """Use `config` for `key` from now on."""
        with self._lock:
            self._configs[key] = config

    def clear(self) -> None:
        """Forget every config."""
        with self._lock:
            self._configs.clear()

    def choose(
        self, key: Hashable, default: Callable[[], Config], legal: Callable[[Config], bool]
    ) -> Choice:
        """The config stored for `key` if it is still legal, else the default."""
        with self._lock:
            config = self._configs.get(key)
        if config is not None and legal(config):
            return Choice(config, "table")
        return Choice(default(), "default")
