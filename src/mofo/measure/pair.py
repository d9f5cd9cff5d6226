"""`mofo measure`: what a tuned model has learned, forgotten and moved against its base, whoever tuned it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from mofo.data.rows import load_rows
from mofo.data.tokens import encode
from mofo.errors import UserError
from mofo.measure import check_probe_specs, distance, held_out_loss, make_probes
from mofo.models.load import load_model
from mofo.models.precision import autocast, choose_precision, compute_device
from mofo.models.weights import weights_of


def measure_pair(
    base: str,
    tuned: str,
    *,
    probes: Sequence[str],
    data: str | None = None,
    rows: int = 100,
    max_length: int = 1024,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Measures two models with the same architecture and tokenizer.

    Args:
        base: The model before, as ``--model`` of `mofo compare`.
        tuned: The model after.
        probes: Probe specifications.
        data: Held-out data of the task; None leaves the learned part out.
        rows: The most held-out rows.
        max_length: Longer rows are cut at so many tokens.
        trust_remote_code: Whether code that comes with a model may run.

    Returns:
        ``{"base": {"learned", "forgotten"}, "tuned": {...}, "distance": {...}}``, each part as in results.json.

    Raises:
        UserError: A model, probe or data file cannot be used, or the two models differ in their parameters.
    """
    if rows < 1:
        raise UserError(f"--rows is {rows}, expected at least 1.")
    check_probe_specs(probes)
    held_out = load_rows(data, split="test", limit=rows) if data else []
    models = {}
    for name, spec in (("base", base), ("tuned", tuned)):
        model, tokenizer = load_model(spec, trust_remote_code=trust_remote_code)
        models[name] = model.to(compute_device())
        if name == "base":
            base_tokenizer = tokenizer
    moved = distance(weights_of(models["base"]), weights_of(models["tuned"]))
    examples = [encode(row, base_tokenizer, max_length) for row in held_out]
    results: dict[str, Any] = {}
    with autocast(choose_precision("auto")):
        made = make_probes(probes, base=models["base"], tokenizer=base_tokenizer)
        for name, model in models.items():
            learned = {"loss": held_out_loss(model, examples)["loss"]} if examples else {}
            results[name] = {"learned": learned, "forgotten": {probe.name: probe.measure(model) for probe in made}}
    return results | {"distance": moved}


def pair_table(results: dict[str, Any]) -> Table:
    """The results of :func:`measure_pair` as a table for the terminal."""
    table = Table("", "base", "tuned", "change")
    base, tuned = results["base"], results["tuned"]
    rows = [(f"held-out {name}", value, tuned["learned"][name]) for name, value in base["learned"].items()]
    for probe, metrics in base["forgotten"].items():
        rows += [(f"{probe} {name}", value, tuned["forgotten"][probe][name]) for name, value in metrics.items()]
    for label, before, after in rows:
        table.add_row(label.replace("_", " "), f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
    moved = results["distance"]
    table.add_section()
    table.add_row("L2 distance", "", f"{moved['l2']:.4g}", "")
    table.add_row("L2 distance / L2 of the base", "", f"{moved['relative']:.2e}", "")
    table.add_row("entries moved", "", f"{moved['moved']:.2%}", "")
    return table
