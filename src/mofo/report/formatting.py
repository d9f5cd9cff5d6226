"""How names and numbers are written, in the terminal and on the page alike."""

from math import floor, log10
from typing import Any

from mofo.report.comparison import DISTANCE, Measure, Setting
from mofo.report.fronts import Pooled

NOTHING = "–"

_METHODS = {
    "adamw": "AdamW",
    "mofo": "MoFO",
    "lion": "Lion",
    "hft": "HFT",
    "l1": "L1",
    "l2": "L2",
    "lora": "LoRA",
    "momentum_over_rms": "m/√v",
}
_METRICS = {
    "loss": ("loss", "nats per token"),
    "kl": ("KL from the base", "nats per token"),
    "accuracy": ("accuracy", "percentage points"),
    "log_probability": ("log-probability", "nats"),
}
_OPTIONS = {"learning_rate": "lr"}


def method_name(method: str) -> str:
    """A method as readers know it: "adamw" is AdamW, "mofo-gradient" is MoFO (gradient)."""
    name, _, score = method.partition("-")
    label = _METHODS.get(name, name)
    return f"{label} ({_METHODS.get(score, score)})" if score else label


def option_name(option: str) -> str:
    """An option as a column head."""
    return _OPTIONS.get(option, option.replace("_", " "))


def option_value(value: Any) -> str:
    """An option's value: 1e-4 for small numbers, as it is otherwise."""
    if isinstance(value, float):
        return scientific(value) if 0 < abs(value) < 0.01 else f"{value:g}"
    return str(value)


def options_text(setting: Setting) -> str:
    """The options of a setting on one line, the learning rate first."""
    options = sorted(setting.options, key=lambda option: option[0] != "learning_rate")
    return " · ".join(f"{option_name(name)}\u00a0{option_value(value)}" for name, value in options)


def measure_name(measure: Measure) -> str:
    """A measure in words: "text loss", "divergence, KL from the base"; the probe's name alone where that says it."""
    if measure == DISTANCE:
        return "distance (L2)"
    if measure.metric == "kl":
        return measure.probe
    return f"{measure.probe} {_METRICS.get(measure.metric, (measure.metric, ''))[0]}"


def measure_unit(measure: Measure) -> str:
    """The unit in which a measure is shown."""
    if measure == DISTANCE:
        return "L2 norm"
    return _METRICS.get(measure.metric, ("", ""))[1]


def shown(measure: Measure, amount: float) -> float:
    """The amount in the unit in which it is shown: accuracies in percentage points."""
    return amount * 100 if measure.metric == "accuracy" else amount


def scientific(value: float) -> str:
    """1e-4 rather than 1e-04."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def number(value: float | None, digits: int = 3) -> str:
    """A number to so many significant digits but no more than four decimals, with a proper minus sign."""
    if value is None:
        return NOTHING
    return _fixed(value, _decimals(value, digits)) if abs(value) < 1e6 else _minus(scientific(value))


def loss_text(value: float) -> str:
    """A held-out loss, to four significant digits: late in training the second decimal hardly changes."""
    return number(value, 4)


def pooled(amount: Pooled | None, measure: Measure | None = None, digits: int = 3) -> str:
    """Mean ± standard deviation: the deviation to one significant digit (two after a 1), the mean as far."""
    if amount is None:
        return NOTHING
    scale = shown(measure, 1.0) if measure else 1.0
    mean = amount.mean * scale
    if amount.std is None:
        return number(mean, digits)
    std = amount.std * scale
    decimals = _decimals(std, 2 if f"{std:e}"[0] == "1" else 1) if std else _decimals(mean, digits)
    if mean:
        decimals = min(decimals, _decimals(mean, 4))
    return f"{_fixed(mean, decimals)} ± {_fixed(std, decimals)}"


def percent(share: float | None) -> str:
    """A share in percent."""
    return NOTHING if share is None else f"{number(share * 100)} %"


def gigabytes(size: float | None) -> str:
    """Bytes as gigabytes (10⁹ bytes)."""
    return NOTHING if size is None else f"{number(size / 1e9)} GB"


def listed(items: list[str]) -> str:
    """Words joined by commas and a last "and"."""
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else "".join(items)


def _decimals(value: float, digits: int) -> int:
    """Decimals that show a number to so many significant digits, four at most."""
    return min(4, max(0, digits - 1 - floor(log10(abs(value))))) if value else 0


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else _minus(text)


def _minus(text: str) -> str:
    return "−" + text[1:] if text.startswith("-") else text
