"""A provider of copies on a GPU, for the real timer in a real worker: some copies go wrong."""

import torch

from autotune import Candidate, Config, Gpu, Key

PROVIDER = "tests.autotune_copies:COPIES"
KEY = Key.of("copies", "copy", {}, {"N": 1}, Gpu("cuda", "any", "any", 1))


def candidate(variant: str, size: int = 1) -> Candidate:
    """A copy of `size` MiB."""
    return Candidate(variant, Config.of(SIZE=size))


class Copies:
    """Provider, task and prepared problem in one."""

    name, key = "copies", KEY

    def task(self, key):
        return self

    def prepare(self):
        self.source = torch.ones(256 << 20, dtype=torch.int8, device="cuda")
        self.target = torch.zeros_like(self.source)
        return self

    def launch(self, candidate):
        if candidate.variant == "assert":
            index = torch.full((1,), 1 << 30, device="cuda")
            torch.zeros(1, device="cuda")[index].sum().item()
        if candidate.variant == "exhaust":
            torch.empty(1 << 50, dtype=torch.int8, device="cuda")
        size = candidate.config["SIZE"] << 20
        self.target[:size].copy_(self.source[:size])

    def check(self, candidate):
        self.target.zero_()
        self.launch(candidate)
        expected, found = candidate.config["SIZE"] << 20, int(self.target.sum())
        return None if found == expected else f"copied {found} bytes, not {expected}"


COPIES = Copies()
