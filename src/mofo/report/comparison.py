"""Reading `results.json` (docs/results.md): load, check, and the look-ups that the report shares."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from mofo.errors import UserError

SCHEMA = 1
# What may differ between results that are drawn as one: which runs were made, not what they were made on.

Results = dict[str, Any]
Run = dict[str, Any]


class Measure(NamedTuple):
    """One number of one probe, such as ("text", "loss")."""

    probe: str
    metric: str


class Setting(NamedTuple):
    """A method with its options; the runs of a setting differ in their seed alone."""

    method: str
    options: tuple[tuple[str, Any], ...]


# The distance is no probe, but it is compared at equal learning in the same way.
DISTANCE = Measure("distance from the base", "l2")

_REQUIRED = {
    "recipe": dict,
    "base": {"learned": {"loss": (int, float)}, "forgotten": dict},
    "runs": [
        {
            "name": str,
            "method": str,
            "settings": dict,
            "seed": int,
            "points": [
                {"step": int, "learned": {"loss": (int, float, type(None))}, "forgotten": dict},
            ],
        }
    ],
}


def load_results(folder: str | Path) -> Results:
    """Read and check the `results.json` of an output folder.

    Results of an unfinished comparison (`"complete": false`, fewer runs or points) are accepted.

    Raises:
        UserError: The file is missing, unreadable, not JSON, of another schema, or lacks a needed field.
    """
    path = Path(folder) / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give the output folder of a `mofo compare` run.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(
            f"{path} is not valid JSON ({error}): run the command that made it again, it goes on where it was."
        ) from None
    schema = results.get("schema") if isinstance(results, dict) else None
    if schema != SCHEMA:
        raise UserError(
            f"{path} has schema {schema!r}, expected {SCHEMA}: draw it with the version of mofo that wrote it."
        )
    problem = _problem(results, _REQUIRED, "")
    if problem:
        raise UserError(f"{path} is damaged: {problem}; make the results again.")
    if finite(results["base"]["learned"]["loss"]) is None:
        raise UserError(f"{path}: the base's held-out loss is not finite, so nothing can be compared with it.")
    return results


def is_complete(results: Results) -> bool:
    """Whether every run of the recipe has been made and measured."""
    return bool(results.get("complete", False))


def finite(number: float | None) -> float | None:
    """The number itself, or None if it is missing, infinite or NaN."""
    return number if number is not None and math.isfinite(number) else None


def measures(results: Results) -> list[Measure]:
    """Every number that the probes give, in the order of the base's measurement."""
    return [Measure(probe, metric) for probe, metrics in results["base"]["forgotten"].items() for metric in metrics]


def headlines(results: Results) -> list[Measure]:
    """One number per probe; of choice probes the log-probability, finer than the accuracy of a few hundred answers."""
    return [m for m in measures(results) if m.metric != "accuracy"]


def setting_of(run: Run) -> Setting:
    """The setting of a run: its method and its options without empty ones."""
    return Setting(run["method"], tuple((k, v) for k, v in sorted(run["settings"].items()) if v is not None))


def settings(results: Results) -> dict[Setting, list[Run]]:
    """Measured runs by setting: methods in the order of the recipe, options in ascending order."""
    order = planned_methods(results)
    groups: dict[Setting, list[Run]] = {}
    for run in measured_runs(results):
        groups.setdefault(setting_of(run), []).append(run)
        if run["method"] not in order:
            order.append(run["method"])

    def key(setting: Setting) -> tuple[Any, ...]:
        options = dict(setting.options)
        lr, fraction = options.pop("learning_rate", 0), options.pop("fraction", 0)
        return order.index(setting.method), lr, fraction, sorted(map(str, options.items()))

    return {setting: groups[setting] for setting in sorted(groups, key=key)}


def methods(results: Results) -> list[str]:
    """Methods with at least one measured run, in the order of the recipe."""
    return list(dict.fromkeys(setting.method for setting in settings(results)))


def planned_methods(results: Results) -> list[str]:
    """Methods that the recipe names; an entry with a grid of its own names its method inside."""
    entries = results["recipe"].get("methods") or []
    return list(dict.fromkeys(entry["method"] if isinstance(entry, dict) else entry for entry in entries))


def measured_runs(results: Results) -> list[Run]:
    """Runs that have reached their first measurement."""
    return [run for run in results["runs"] if run["points"]]


def last_step(results: Results) -> int:
    """The step at which methods are compared at equal steps: the last that any run reached."""
    return max((run["points"][-1]["step"] for run in measured_runs(results)), default=0)


def _problem(value: Any, shape: Any, where: str) -> str | None:
    """What is wrong with `value`, or None: `shape` holds dicts of needed fields, one-item lists, and types."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{where or 'the whole'} should be an object"
        missing = [key for key in shape if key not in value]
        if missing:
            return f"{where or 'the whole'} lacks {', '.join(missing)}"
        problems = (_problem(value[key], inner, f"{where}.{key}".lstrip(".")) for key, inner in shape.items())
    elif isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} should be a list"
        problems = (_problem(item, shape[0], f"{where}[{i}]") for i, item in enumerate(value))
    else:
        return None if isinstance(value, shape) else f"{where} is {value!r}"
    return next((problem for problem in problems if problem), None)
