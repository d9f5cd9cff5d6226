"""How the comparison was made: recipe, versions and hardware."""

from __future__ import annotations

from pathlib import Path

import yaml

from mofo.report.comparison import Comparison
from mofo.report.formatting import gigabytes
from mofo.report.section import Details, Section
from mofo.results import Hardware


def section(comparison: Comparison) -> Section:
    """Return everything that decided the results, folded in."""
    results = comparison.results
    recipe = yaml.safe_dump(results.recipe, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100)
    recipe = recipe.replace(str(Path.home()), "~")  # pages are passed on
    details = [Details("Recipe", text=recipe)]
    if results.plan is not None:
        plan = results.plan
        details.append(
            Details(
                "Plan",
                {
                    "steps": f"{plan.total_steps:,}",
                    "training rows": f"{plan.training_rows:,}",
                    "held-out rows": f"{plan.held_out_rows:,}",
                    "precision": plan.precision,
                },
            )
        )
    details.append(Details("Versions", results.versions))
    if results.hardware is not None:
        details.append(Details("Hardware", _hardware(results.hardware)))
    return Section("How it was made", details=details)


def _hardware(machine: Hardware) -> dict[str, str]:
    return {
        "processor": machine.processor,
        "cores": str(machine.cores or "unknown"),
        "memory": gigabytes(machine.memory_bytes),
        "computed on": machine.gpu or machine.device,
    }
