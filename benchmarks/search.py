"""The searches on synthetic surfaces: `python -m benchmarks.search [--surfaces 50] [--repeats 4]`.

No GPU: the truth is known, so what is reported is how much slower than the truly fastest the choice
is (regret), how often a repeated search chooses something truly slower than its fellows (flips),
and what it took. The surfaces are not those that the searches were tuned on. "blind" is guided with
a model that predicts the same for every candidate, "half" with half of the trials.
"""

import argparse
import statistics
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from autotune.config import Candidate
from autotune.testing import Surface
from autotune.testing.study import Study, study


class Blind(Surface):
    """A surface whose model knows nothing."""

    def predict(self, candidate: Candidate) -> float:
        """The same for all."""
        return 1.0


def rows(seeds: Sequence[int], repeats: int) -> dict[str, Study]:
    """Every strategy's study, by the name of its row."""
    return {
        "guided": study("guided", seeds, repeats=repeats),
        "guided, half": study("guided", seeds, repeats=repeats, share=0.05),
        "guided, blind": study(
            "guided", seeds, repeats=repeats, view=lambda surface: Blind(surface.seed)
        ),
        "guided, no limit": study("guided", seeds, repeats=repeats, share=None),
        "random": study("random", seeds, repeats=repeats),
        "exhaustive": study("exhaustive", seeds, share=None),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Regret of the searches on synthetic surfaces.")
    parser.add_argument("--surfaces", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=4, help="seeds of the noise per surface")
    arguments = parser.parse_args()
    found = rows(range(arguments.surfaces), arguments.repeats)
    table = Table(box=box.MARKDOWN)
    table.add_column("strategy")
    for name in ("mean regret", "95th percentile", "flips", "trials", "compiles"):
        table.add_column(name, justify="right")
    for name, result in found.items():
        table.add_row(
            name,
            f"{result.mean:.1%}",
            f"{result.high:.1%}",
            f"{result.flip_rate:.1%}" if name != "exhaustive" else "",
            f"{statistics.mean(result.trials):.0f}",
            f"{statistics.mean(result.compiles):.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
