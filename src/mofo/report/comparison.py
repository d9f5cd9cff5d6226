"""`Comparison`: results as the report sees them. What its sections derive from results is derived here, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from mofo.report.formatting import joined, measured, plural, setting_value, span
from mofo.report.spread import Pooled, pool_known
from mofo.report.styles import Style, make_styles
from mofo.results import Metric, Point, Results, Run, Scalar

Trajectory = list[tuple[float, float]]
"""Points of a run in order of time, the base first: held-out loss, and how much worse than the base a metric is."""


@dataclass(frozen=True, eq=False)
class Configuration:
    """A method with its settings, and the measured runs that it has: one for each seed."""

    method: str
    settings: Mapping[str, Scalar]
    runs: Sequence[Run]


class Comparison:
    """The results of a comparison, and what the report derives from them.

    Methods are named by their keys in the file, and listed in its order. Runs that have not reached their first
    measurement are left out everywhere, and so are those that learned several tasks at once, or each alone: these are
    what others are held against, in the sections on sequences. Numbers are in the units in which they are shown.

    Args:
        results: What was measured.
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        self._trajectories: dict[tuple[str, Metric], Trajectory] = {}

    @cached_property
    def runs(self) -> list[Run]:
        """The runs that have been measured at least once."""
        return [run for run in self.results.runs if run.points and run.method in self.planned_methods]

    @cached_property
    def configurations(self) -> list[Configuration]:
        """Runs grouped by method and settings: methods in the order of the file, settings in ascending order."""
        groups: dict[tuple[str, frozenset[tuple[str, Scalar]]], list[Run]] = {}
        for run in self.runs:
            groups.setdefault((run.method, frozenset(run.settings.items())), []).append(run)
        found = [Configuration(runs[0].method, runs[0].settings, runs) for runs in groups.values()]
        return sorted(found, key=self._place)

    def _place(self, configuration: Configuration) -> tuple[object, ...]:
        """Return what configurations are sorted by; a setting that a configuration lacks comes first."""
        values = [configuration.settings.get(name) for name in self.results.settings]
        keys = [(0, 0) if v is None else (2, v) if isinstance(v, str) else (1, float(v)) for v in values]
        return (self.planned_methods.index(configuration.method), *keys)

    def of_method(self, method: str) -> list[Configuration]:
        """Return the configurations of a method."""
        return [configuration for configuration in self.configurations if configuration.method == method]

    @property
    def planned_methods(self) -> list[str]:
        """All methods of the recipe that learn its tasks in sequence; where none does, all."""
        in_sequence = [name for name, info in self.results.methods.items() if info.order == "sequence"]
        return in_sequence or list(self.results.methods)

    @cached_property
    def methods(self) -> list[str]:
        """The methods that have measured runs."""
        return [method for method in self.planned_methods if self.of_method(method)]

    @cached_property
    def missing(self) -> str:
        """How much the plan still lacks, as "2 runs of the plan are missing"; empty of a complete comparison."""
        count = len(self.results.missing)
        if self.results.complete or not count:
            return "" if self.results.complete else "runs of the plan are missing"
        return f"{plural(count, 'run')} of the plan {'is' if count == 1 else 'are'} missing"

    @cached_property
    def reference(self) -> str | None:
        """The method that the others are compared with: the file's, or the first if that has no measured run."""
        return self.results.reference if self.results.reference in self.methods else next(iter(self.methods), None)

    @cached_property
    def pair(self) -> tuple[str, str] | None:
        """The method that the verdict is about, and the reference; None if only one method was measured."""
        others = [method for method in self.methods if method != self.reference]
        return (others[0], self.reference) if others and self.reference else None

    @cached_property
    def styles(self) -> dict[str, Style]:
        """Colour and marker of each method, the same whether or not others have been measured yet."""
        return make_styles(self.planned_methods, self.results.reference)

    def label(self, method: str) -> str:
        """Return a method as readers know it."""
        return self.results.methods[method].label

    @cached_property
    def varied_settings(self) -> list[str]:
        """Settings that tell configurations apart: they differ, or some runs of a method have them and others not."""
        return [name for name in self.results.settings if len(self._values(name)) > 1 or self._is_optional(name)]

    @cached_property
    def fixed_settings(self) -> str:
        """The settings that are the same in all runs that have them, as text."""
        return joined(
            [
                self._setting_text(name, *values)
                for name in self.results.settings
                if len(values := self._values(name)) == 1 and name not in self.varied_settings
            ]
        )

    def _values(self, name: str) -> list[Scalar]:
        return list(dict.fromkeys(run.settings[name] for run in self.runs if name in run.settings))

    def _is_optional(self, name: str) -> bool:
        """Return whether some runs of a method have a setting and others not, which have its default."""
        return any(len({name in c.settings for c in self.of_method(method)}) > 1 for method in self.methods)

    def _setting_text(self, name: str, value: Scalar) -> str:
        return f"{self.results.settings[name].label}\u00a0{setting_value(value)}"

    def best_run(self, method: str, among: Callable[[Run], bool] = bool) -> Run | None:
        """Return the run of a method that ended with the best number of the learning metric; None if all diverged.

        Args:
            method: The method.
            among: Returns whether a run is considered.
        """
        runs = [run for configuration in self.of_method(method) for run in configuration.runs if among(run)]
        ends = [(loss, run) for run in runs if (loss := self.loss(run.points[-1])) is not None]
        return min(
            (end for end in ends if self.diverged_at(end[1]) is None), key=lambda end: end[0], default=(0, None)
        )[1]

    def describe_run(self, run: Run) -> str:
        """Return a run's configuration on one line."""
        return self.describe(next(c for c in self.of_method(run.method) if run in c.runs))

    def describe(self, configuration: Configuration) -> str:
        """Return a configuration on one line: its method and its settings."""
        return ", ".join(filter(None, [self.label(configuration.method), self.settings_text(configuration)]))

    def settings_text(self, configuration: Configuration) -> str:
        """Return a configuration's settings on one line, without those that are the same in all runs."""
        own = configuration.settings
        return " · ".join(self._setting_text(name, own[name]) for name in self.varied_settings if name in own)

    @cached_property
    def last_step(self) -> int:
        """The step at which methods are compared at equal steps: the last that any run has reached."""
        return max((run.points[-1].step for run in self.runs), default=0)

    @property
    def learning(self) -> Metric:
        """The metric by which learning is compared."""
        return self.results.learning

    def loss(self, point: Point) -> float | None:
        """Return the learning metric at a point as a loss: with the sign that makes lower better."""
        amount = self.amount(self.learning, point)
        return None if amount is None else self.as_loss(amount)

    def as_loss(self, amount: float) -> float:
        """Return an amount of the learning metric as a loss, or the other way round: the sign may differ."""
        return -amount if self.learning.higher_is_better else amount

    @property
    def lowest(self) -> str:
        """What the best number of the learning metric is called: the lowest or the highest."""
        return "highest" if self.learning.higher_is_better else "lowest"

    @property
    def below(self) -> str:
        """Where better numbers of the learning metric lie: below or above."""
        return "above" if self.learning.higher_is_better else "below"

    @cached_property
    def base_loss(self) -> float:
        """The base's number of the learning metric, as a loss."""
        loss = self.loss(self.results.base)
        assert loss is not None, "load_results refuses such a file"
        return loss

    def loss_text(self, loss: float) -> str:
        """Return a loss as text, as a number of the learning metric."""
        return measured(Pooled(self.as_loss(loss), None, 1), self.learning)

    def amount(self, metric: Metric, point: Point) -> float | None:
        """Return what tables show of a metric at a point: what is learned as it is, all else as its change."""
        found = metric.of(point) if metric.kind == "learned" else metric.change(self.results.base, point)
        return None if found is None else found * metric.scale

    @cached_property
    def metrics(self) -> list[Metric]:
        """The metrics that at least one run has a number of, in the order of the file."""
        points = [point for run in self.runs for point in run.points]
        return [m for m in self.results.metrics if any(self.amount(m, point) is not None for point in points)]

    @cached_property
    def learned(self) -> list[Metric]:
        """The metrics of what was learned."""
        return [metric for metric in self.metrics if metric.kind == "learned"]

    @cached_property
    def forgotten(self) -> list[Metric]:
        """The metrics of the probes."""
        return [metric for metric in self.metrics if metric.kind == "forgotten"]

    @cached_property
    def distances(self) -> list[Metric]:
        """The metrics of the distance from the base."""
        return [metric for metric in self.metrics if metric.kind == "distance"]

    @cached_property
    def probe_headlines(self) -> list[Metric]:
        """The metrics that stand for their probes."""
        return [metric for metric in self.forgotten if metric.headline]

    @cached_property
    def distance_headlines(self) -> list[Metric]:
        """The metrics that stand for the distance."""
        return [metric for metric in self.distances if metric.headline]

    def ends(self, configuration: Configuration) -> list[Point]:
        """Return the points at the last step; runs that have not come so far yet are left out."""
        return [run.points[-1] for run in configuration.runs if self.has_ended(run)]

    def has_ended(self, run: Run) -> bool:
        """Return whether a run's last point is its end: it is at the last step, or its method ended it before."""
        return run.ended_at is not None or run.points[-1].step == self.last_step

    def at_end(self, configuration: Configuration, metric: Metric) -> Pooled | None:
        """Return what tables show of a metric at the last step; None if a run that came so far lacks it or diverged."""
        if self.divergence_text(configuration):
            return None
        ends = self.ends(configuration)
        return pool_known([self.amount(metric, end) for end in ends], self.error(configuration, metric))

    def error(self, configuration: Configuration, metric: Metric) -> float | None:
        """Return the standard error of what tables show of a metric, at the ends of the runs."""
        ends = [run.points[-1] for run in configuration.runs]
        found = [metric.error(end) if metric.kind == "learned" else metric.change_error(end) for end in ends]
        known = [error * metric.scale for error in found if error is not None]
        return fmean(known) if known else None

    def base_text(self, metric: Metric) -> str:
        """Return the base's number of a metric with its standard error, as text; empty if it was not measured."""
        base = self.results.base
        value, error = metric.of(base), metric.error(base)
        if value is None:
            return ""
        return measured(Pooled(value * metric.scale, error * metric.scale if error else None, 1), metric)

    def diverged_at(self, run: Run) -> int | None:
        """Return the first step at which a run's loss was not a finite number; None if it always was."""
        steps = [point.step for point in run.points if self.loss(point) is None]
        return min([*steps, *(entry.step for entry in run.training if entry.loss is None)], default=None)

    def divergence_text(self, configuration: Configuration) -> str:
        """Return at which step the runs of a configuration diverged, as "diverged at step 1"; empty if none did."""
        steps = [step for run in configuration.runs if (step := self.diverged_at(run)) is not None]
        if not steps:
            return ""
        share = f" with {len(steps)} of {len(configuration.runs)} seeds" if len(steps) < len(configuration.runs) else ""
        return f"diverged at step {span(steps)}{share}"

    @cached_property
    def divergences(self) -> list[str]:
        """A clause for each method of which configurations diverged, with their settings and steps."""
        clauses = []
        for method in self.methods:
            found = [(c, text) for c in self.of_method(method) if (text := self.divergence_text(c))]
            if len(found) == 1:
                clauses.append(f"{self.full_name(found[0][0])} {found[0][1]}")
            elif found:
                where = [f"{text.removeprefix('diverged ')} ({self.settings_text(c)})" for c, text in found]
                clauses.append(f"{self.label(method)} diverged {joined(where)}")
        return clauses

    def full_name(self, configuration: Configuration) -> str:
        """Return a configuration with all of its settings: "MoFO at lr 1e-4 and fraction 0.15"."""
        settings = [self._setting_text(name, value) for name, value in configuration.settings.items()]
        return (
            f"{self.label(configuration.method)} at {joined(settings)}"
            if settings
            else self.label(configuration.method)
        )

    def optimizer_seconds(self, configuration: Configuration) -> Pooled | None:
        """Return the seconds that a configuration's optimizer took per step; None if they were not recorded."""
        return _per_step([(run.seconds.optimizer, run) for run in configuration.runs if run.seconds])

    def training_seconds(self, configuration: Configuration) -> Pooled | None:
        """Return the seconds that a training step of a configuration took; None if they were not recorded."""
        return _per_step([(run.seconds.training, run) for run in configuration.runs if run.seconds])

    def trajectory(self, run: Run, metric: Metric) -> Trajectory:
        """Return the points of a run at which both the learning metric and another one are finite.

        Of a run that diverged there is the base alone: what it was like before says nothing of where it led.
        """
        key = (run.name, metric)
        if key not in self._trajectories:
            measured_points = [] if self.diverged_at(run) is not None else run.points
            points = [(self.loss(point), self.amount(metric, point)) for point in measured_points]
            known = [(loss, amount) for loss, amount in points if loss is not None and amount is not None]
            self._trajectories[key] = [(self.base_loss, 0.0), *known]
        return self._trajectories[key]


def _per_step(timed: Sequence[tuple[float | None, Run]]) -> Pooled | None:
    """Return seconds per step of several runs; None unless each has them."""
    steps = [(seconds, run.points[-1].step) for seconds, run in timed]
    return pool_known([seconds / step if seconds is not None and step else None for seconds, step in steps])
