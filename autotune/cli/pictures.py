"""The pictures themselves, by matplotlib, without a display."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..config import Candidate
from ..layers import Entry
from .output import SHORT, plain, short, sizes

BEST, DEFAULT, TIE, REST = "#d1495b", "#2f4858", "#edae49", "#9fb3c8"
_WIDTH = 9.0
# Bars that one can still read; points have no such limit.
_MOST_BARS = 40
_ROW = 0.24


def configs(path: Path, entry: Entry, timed: Sequence[tuple[Candidate, float]]) -> None:
    """Microseconds of every config that was timed, fastest first; best and default marked."""
    record = entry.record
    best = entry.candidate
    default = record.default.candidate() if record.default else None
    ties = {tie.candidate() for tie in record.ties}
    shown = [
        pair for place, pair in enumerate(timed) if place < _MOST_BARS or pair[0] in (best, default)
    ]
    figure, axes = _figure(1.4 + _ROW * len(shown))
    for row, (candidate, time) in enumerate(shown):
        colour = BEST if candidate == best else DEFAULT if candidate == default else REST
        colour = TIE if colour == REST and candidate in ties else colour
        axes.barh(row, time, color=colour, height=0.72)
        axes.text(time, row, f" {time:.4g}", va="center", fontsize=7)
    axes.set_yticks(range(len(shown)), [_name(candidate) for candidate, _ in shown], fontsize=7)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * max(time for _, time in shown))
    axes.set_xlabel("µs, median; shorter is better")
    hidden = len(timed) - len(shown)
    more = f"; {hidden} others are not drawn" if hidden else ""
    _title(axes, f"{_problem(entry)}\n{len(timed)} configs timed{more}")
    kinds = (("best", BEST), ("default", DEFAULT), ("near-tie", TIE), ("other", REST))
    _legend(figure, [(*kind, "s") for kind in kinds])
    _save(figure, path)


def speedups(path: Path, entries: Sequence[Entry]) -> None:
    """Speed-up of the best over the default, measured in one run, by problem."""
    ordered = sorted(entries, key=lambda e: (-e.record.speedup, e.key.digest))
    shown = ordered[: 2 * _MOST_BARS]
    figure, axes = _figure(1.4 + _ROW * len(shown))
    for row, entry in enumerate(shown):
        gain = entry.record.speedup
        won = (
            entry.record.default is not None and entry.candidate != entry.record.default.candidate()
        )
        axes.barh(row, gain, color=BEST if won else DEFAULT, height=0.72)
        axes.text(gain, row, f" {gain:.2f}", va="center", fontsize=7)
    names = [f"{e.key.op} {sizes(e.key)}  {e.key.digest[:6]}" for e in shown]
    axes.set_yticks(range(len(shown)), [_cut(name) for name in names], fontsize=7)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * max(e.record.speedup for e in shown))
    axes.axvline(1.0, color="black", linewidth=0.8, linestyle="--")
    axes.set_xlabel("times as fast as the default; dashed: as fast")
    gpus = ", ".join(sorted({e.key.gpu.model for e in shown}))
    more = (
        f"; {len(ordered) - len(shown)} smaller ones are not drawn"
        if len(ordered) > len(shown)
        else ""
    )
    _title(axes, f"Speed-up over the default on {gpus}{more}")
    kinds = (("another config won", BEST), ("the default stayed", DEFAULT))
    _legend(figure, [(*kind, "s") for kind in kinds])
    _save(figure, path)


def roofline(path: Path, works: Sequence[tuple[Entry, float, float]]) -> None:
    """Achieved flops a second over flops a byte, best and default of each problem.

    The roofs are the highest rates among these measurements, not a datasheet's: above them nothing
    was seen.
    """
    points = []
    for entry, flops, moved in works:
        record = entry.record
        for time, colour, marker in (
            (record.default_us, DEFAULT, "o"),
            (record.best_us, BEST, "^"),
        ):
            if time is not None:
                points.append((flops / moved, flops / time / 1e6, colour, marker))
    figure, axes = _figure(5.4)
    for intensity, rate, colour, marker in points:
        axes.plot(intensity, rate, marker, color=colour, markersize=6, alpha=0.8)
    top = max(rate for _, rate, _, _ in points)
    bandwidth = max(rate / intensity for intensity, rate, _, _ in points)
    low, high = min(p[0] for p in points) / 2, max(p[0] for p in points) * 2
    ridge = top / bandwidth
    low, high = min(low, ridge / 2), max(high, ridge * 2)
    axes.plot([low, ridge, high], [low * bandwidth, top, top], color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_xlabel("flops a byte")
    axes.set_ylabel("Tflop/s")
    axes.grid(True, which="both", linewidth=0.3, alpha=0.6)
    gpus = ", ".join(sorted({entry.key.gpu.model for entry, _, _ in works}))
    roof = f"roof: the highest rates seen here, {top:.3g} Tflop/s and {bandwidth:.3g} TB/s"
    _title(axes, f"{len(works)} problems on {gpus}\n{roof}")
    _legend(figure, [("best", BEST, "^"), ("default", DEFAULT, "o")])
    _save(figure, path)


def _figure(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(_WIDTH, max(2.4, height)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png")


def _legend(figure: Figure, named: Sequence[tuple[str, str, str]]) -> None:
    # Below the axes, where it hides nothing.
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=8, label=label)
        for label, colour, marker in named
    ]
    figure.legend(handles=handles, fontsize=8, loc="outside lower left", ncols=4, frameon=False)


def _title(axes: Any, text: str) -> None:
    # A dollar sign would start a formula.
    axes.set_title("\n".join(map(_safe, text.split("\n"))), fontsize=9, loc="left")


def _problem(entry: Entry) -> str:
    key = entry.key
    return f"{key.op} {sizes(key)} on {key.gpu.model} ({key.digest[:SHORT]})"


def _name(candidate: Candidate) -> str:
    return _cut(short(candidate))


def _cut(text: str, most: int = 72) -> str:
    text = _safe(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def _safe(text: str) -> str:
    return plain(text).replace("$", r"\$")
