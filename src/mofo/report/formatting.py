"""How numbers and words are written, in the terminal and on the page alike."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log10

from mofo.report.spread import Pooled
from mofo.results import Metric, Scalar

NOTHING = "–"


def setting_value(value: Scalar) -> str:
    """Return a setting's value: 1e-4 and 1e30 for small and large numbers, as it is otherwise."""
    if isinstance(value, float):
        return scientific(value) if 0 < abs(value) < 0.01 or abs(value) >= 1e6 else f"{value:g}"
    return str(value)


def scientific(value: float) -> str:
    """Return a number in scientific notation: 1e-4 rather than 1e-04."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number to `digits` significant digits but at most four decimals, with a proper minus sign."""
    if value is None:
        return NOTHING
    return _fixed(value, _decimals(value, digits)) if abs(value) < 1e6 else _minus(scientific(value))


def signed(value: float | None, digits: int = 3) -> str:
    """Return a change: `number` with a plus sign where it is positive."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 else text


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of lines of cells: the heads, what aligns their columns, and the rows."""
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def pooled(amount: Pooled | None, digits: int = 3) -> str:
    """Return mean ± standard deviation.

    The deviation has one significant digit (two if the first is a 1), and the mean as many decimals.
    """
    if amount is None:
        return NOTHING
    if amount.std is None:
        return number(amount.mean, digits)
    std = amount.std
    decimals = _decimals(std, 2 if f"{std:e}"[0] == "1" else 1) if std else _decimals(amount.mean, digits)
    if amount.mean:
        decimals = min(decimals, _decimals(amount.mean, 4))
    return f"{_fixed(amount.mean, decimals)} ± {_fixed(std, decimals)}"


def measured(amount: Pooled | None, metric: Metric) -> str:
    """Return an amount of a metric without its unit.

    What is learned has four digits: late in training the second decimal of a loss hardly changes.
    """
    return pooled(amount, digits=4 if metric.kind == "learned" else 3)


def with_unit(name: str, unit: str) -> str:
    """Return a name with its unit, as on an axis; the name alone if there is no unit."""
    return f"{name}, {unit}" if unit else name


def gigabytes(size: float | None) -> str:
    """Return bytes as gigabytes (10⁹ bytes)."""
    return NOTHING if size is None else f"{number(size / 1e9)} GB"


def joined(items: Sequence[str]) -> str:
    """Return words joined by commas and a last "and"."""
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else "".join(items)


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: "1 seed", "2 seeds"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def span(counts: Sequence[int]) -> str:
    """Return the range of several counts: "3", "1 to 3"."""
    return " to ".join(map(str, dict.fromkeys([min(counts), max(counts)])))


def _decimals(value: float, digits: int) -> int:
    """Return the decimals that show a number to `digits` significant digits, four at most."""
    return min(4, max(0, digits - 1 - floor(log10(abs(value))))) if value else 0


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else _minus(text)


def _minus(text: str) -> str:
    return "−" + text[1:] if text.startswith("-") else text
