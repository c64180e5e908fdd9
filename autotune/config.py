"""One way to launch a kernel, and one way to solve a problem."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, order=True)
class Config:
    """Compile-time constants by name (sorted), warps a program, software-pipeline stages."""

    constants: tuple[tuple[str, int], ...]
    num_warps: int = 4
    num_stages: int = 2

    @classmethod
    def of(cls, num_warps: int = 4, num_stages: int = 2, **constants: int) -> "Config":
        """Build a config from keyword constants, for example `Config.of(8, 3, BLOCK_M=128)`."""
        return cls(tuple(sorted(constants.items())), num_warps, num_stages)

    def __getitem__(self, name: str) -> int:
        return dict(self.constants)[name]

    def __str__(self) -> str:
        constants = ", ".join(f"{name}={value}" for name, value in self.constants)
        return f"{constants}, num_warps={self.num_warps}, num_stages={self.num_stages}"


class Candidate(NamedTuple):
    """An algorithm by name and its config. Their order breaks ties, the same everywhere."""

    variant: str
    config: Config

    def __str__(self) -> str:
        return f"{self.variant}: {self.config}"
