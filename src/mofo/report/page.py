"""The page: one self-contained HTML file, and the figures as PNG beside it."""

import base64
import os
import tempfile
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mofo.errors import UserError
from mofo.report.comparison import (
    Results,
    finite,
    is_complete,
    last_step,
    load_results,
    measured_runs,
    measures,
    methods,
    planned_methods,
    settings,
)
from mofo.report.conclusion import verdict
from mofo.report.figures import Panel, figures, png, style_of, svg
from mofo.report.formatting import listed, loss_text, method_name, option_value, options_text
from mofo.report.terminal import compared, cost_rows, end_columns, end_rows, equal_learning_table, heads


def write_report(folder: str | Path) -> Path:
    """Draw `report.html` and `plots/*.png` from the `results.json` of an output folder.

    Args:
        folder: An output folder of `mofo compare`.

    Returns:
        The path of `report.html`.

    Raises:
        UserError: Results are missing or damaged, or the report cannot be written. Nothing is written then.
    """
    results = load_results(folder)
    drawn = figures(results)
    files = {f"plots/{name}.png": png(panels) for name, panels in drawn.items()}
    files["report.html"] = _page(results, drawn).encode()
    _write(Path(folder), files)
    return Path(folder) / "report.html"


def _page(results: Results, drawn: dict[str, list[Panel]]) -> str:
    environment = Environment(
        loader=PackageLoader("mofo.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"method": method_name, "options": options_text, "loss": loss_text}
    recipe = results["recipe"]
    names = [method_name(method) for method in methods(results)]
    chosen = compared(results)
    return environment.get_template("report.html.jinja").render(
        title=f"{listed(names) if names else 'Nothing yet'} on {Path(str(recipe.get('model', 'a model'))).name}",
        recipe={key: _plain(value) for key, value in recipe.items()},
        versions=results.get("versions", {}),
        hardware={key: _plain(value) for key, value in results.get("hardware", {}).items()},
        verdict=verdict(results),
        complete=is_complete(results),
        progress=_progress(results),
        base_loss=results["base"]["learned"]["loss"],
        step=last_step(results),
        colours={method: colour for method, (colour, _) in style_of(results).items()},
        end={"columns": end_columns(measures(results)), "rows": end_rows(results, measures(results))},
        equal={"heads": heads(chosen), "groups": equal_learning_table(results, chosen)},
        costs=cost_rows(results),
        figures={name: [(panel.title, _data_uri(svg(panel))) for panel in panels] for name, panels in drawn.items()},
        limits=_limits(results),
    )


def _progress(results: Results) -> str:
    """How much of an unfinished comparison is there."""
    done = sum(run["points"][-1]["step"] == last_step(results) for run in measured_runs(results))
    missing = [method for method in planned_methods(results) if method not in methods(results)]
    text = f"{done} runs have reached step {last_step(results)}, {len(results['runs']) - done} have not"
    return f"{text}; {listed([method_name(m) for m in missing])}: not measured yet" if missing else text


def _limits(results: Results) -> list[str]:
    """What the reader should not conclude, from what these results are."""
    counts = sorted({len(runs) for runs in settings(results).values()})
    if counts == [1]:
        seeds = "One seed per setting: there is no measure of chance. Repeat with three seeds or more."
    else:
        number = " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]]))) if counts else "No"
        alone = " (none with one seed)" if counts[:1] == [1] else ""
        seeds = f"{number} seeds per setting: ± is their standard deviation{alone}, overlap counts as no difference."
    tried = [
        f"{method_name(method)} {sum(setting.method == method for setting in settings(results))}"
        for method in methods(results)
    ]
    best = f"Picking the best of several settings afterwards favours methods with more of them: {listed(tried)}."
    tokens = max((run["points"][-1].get("tokens") or 0 for run in measured_runs(results)), default=0)
    length = f"{last_step(results)} steps{f' ({tokens:,} tokens)' if tokens else ''}"
    regime = (
        f"Each run was {length} on one model and one task; longer training, other models and other data may rank the "
        "methods differently."
    )
    between = "Between checkpoints, amounts are read off a straight line; more checkpoints make them more exact."
    broken = [
        run["name"]
        for run in measured_runs(results)
        if any(finite(point["learned"]["loss"]) is None for point in run["points"])
    ]
    diverged = [f"Left out where the held-out loss was not a finite number: {listed(broken)}."] if broken else []
    return [seeds, *([best] if len(tried) > 1 else []), regime, between, *diverged]


def _plain(value: Any) -> str:
    """A recipe's or machine's value as text."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(inner)}" for key, inner in value.items())
    return "none" if value is None else option_value(value)


def _data_uri(image: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(image.encode()).decode()


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Write all files or none: each goes to a temporary file first, and only whole ones take their names."""
    staged: dict[str, str] = {}
    try:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=(folder / name).parent, prefix=".", delete=False) as file:
                staged[name] = file.name
                file.write(content)
            os.chmod(file.name, 0o644)
        for name, temporary in staged.items():
            os.replace(temporary, folder / name)
    except OSError as error:
        raise UserError(f"The report cannot be written to {folder}: {error.strerror}.") from None
    finally:
        for temporary in staged.values():
            Path(temporary).unlink(missing_ok=True)
