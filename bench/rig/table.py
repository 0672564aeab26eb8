"""Figures of several rounds as a table in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A figure that each round of a case gives, or leaves out."""

    key: str
    text: str
    unit: str = "x"
    """`x` for ratios, `s`, `MiB`, `s/GiB`."""
    reach: float | None = None
    """At most this much is wanted of the median."""
    always: bool = False
    """Whether the limit holds for every round."""

    def show(self, value: float) -> str:
        if self.unit == "x":
            return f"{value:.3f}"
        return f"{value:.2f} {self.unit}"

    def met(self, values: Sequence[float]) -> bool:
        return self.reach is None or (max(values) if self.always else statistics.median(values)) <= self.reach


def markdown(title: str, figures: Sequence[Figure], rounds: Sequence[Mapping[str, float]]) -> str:
    """One row for each figure that any round gave."""
    lines = [f"**{title}**", "", "| figure | min | median | max | reach | |", "|---|---|---|---|---|---|"]
    for figure in figures:
        values = [each[figure.key] for each in rounds if figure.key in each]
        if not values:
            continue
        shown = (figure.show(value) for value in (min(values), statistics.median(values), max(values)))
        reach = "" if figure.reach is None else figure.show(figure.reach)
        verdict = "" if figure.reach is None else ("yes" if figure.met(values) else "**no**")
        lines.append(f"| {figure.text} | {' | '.join(shown)} | {reach} | {verdict} |")
    return "\n".join(lines) + "\n"
