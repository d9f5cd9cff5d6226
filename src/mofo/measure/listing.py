"""What kinds of probes there are, for people who choose what to measure."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from mofo.errors import UserError, closest
from mofo.measure.kinds import KINDS

if TYPE_CHECKING:
    from rich.table import Table


def kind_info(name: str) -> dict[str, Any]:
    """Return all that is known of a kind of probe, as JSON values.

    Raises:
        UserError: There is none of that name.
    """
    if name not in KINDS:
        raise UserError(f"There is no probe {name!r}{closest(name, KINDS)}: `mofo probes` lists all.")
    kind = KINDS[name]
    return {
        "name": name,
        "description": inspect.cleandoc(kind.__doc__ or "").partition("\n\nArgs:")[0],
        "numbers": kind.numbers,
        "better": kind.better,
        "cost": kind.cost,
        "usage": list(kind.usage),
    }


def kinds_table() -> Table:
    """Return a table of all kinds of probes: what each measures, which way is better, its cost and an example."""
    from rich import box
    from rich.table import Table

    table = Table("name", "what it measures", "better", "cost", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("as", no_wrap=True)
    for name in KINDS:
        info = kind_info(name)
        what = info["description"].splitlines()[0]
        table.add_row(name, what, info["better"], info["cost"], "\n".join(info["usage"]), end_section=True)
    table.caption = "mofo measure and mofo compare take them: --probes text,divergence,choice:FILE.jsonl"
    return table


def kind_text(name: str) -> str:
    """Return all that is known of a kind of probe, for reading.

    Raises:
        UserError: There is none of that name.
    """
    info = kind_info(name)
    lines = [info["description"], "", f"Numbers: {info['numbers']}; {info['better']} is better."]
    lines.append(f"Cost: {info['cost']}.")
    return "\n".join([*lines, "", "Examples:", *(f"  --probes {usage}" for usage in info["usage"])])
