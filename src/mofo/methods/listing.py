"""What parts there are, for people who choose one."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from mofo.errors import UserError, closest
from mofo.methods import parts
from mofo.methods.part import OptimizerPart, Part

if TYPE_CHECKING:
    from rich.table import Table


def find_part(name: str) -> type[Part]:
    """Return the part of a name.

    Raises:
        UserError: There is none.
    """
    by_name = {part.name: part for part in parts.PARTS}
    if name not in by_name:
        raise UserError(f"There is no method {name!r}{closest(name, by_name)}: `mofo methods` lists all.")
    return by_name[name]


def part_info(part: type[Part]) -> dict[str, Any]:
    """Return all that is known of a part, as JSON values."""
    return {
        "name": part.name,
        "label": part.label,
        "kind": "optimizer" if issubclass(part, OptimizerPart) else "extra",
        "description": inspect.cleandoc(part.__doc__ or ""),
        "source": part.source,
        "cost": part.cost,
        "settings": {
            name: {"default": field.default, "description": field.description}
            for name, field in part.model_fields.items()
        },
    }


def parts_table() -> Table:
    """Return a table of all parts: what each does in a line."""
    from rich import box
    from rich.table import Table

    table = Table("name", "what it does", "source", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    kind = "optimizer"
    for part in parts.PARTS:
        info = part_info(part)
        if info["kind"] != kind:
            table.add_section()
            kind = info["kind"]
        table.add_row(part.name, info["description"].splitlines()[0], part.source)
    table.caption = "Optimizers above, extras below. Any extra goes with any optimizer: mofo+self-distill."
    return table


def part_text(part: type[Part]) -> str:
    """Return all that is known of a part, for reading."""
    info = part_info(part)
    title = ", ".join(filter(None, [f"{info['label']} ({info['name']})", info["source"]]))
    lines = [title, "", info["description"], ""]
    lines += [f"Cost beside AdamW: {info['cost']}."] if info["cost"] else []
    lines += ["", "Settings:"] if info["settings"] else []
    lines += [
        f"  {name} = {setting['default']}: {setting['description']}" for name, setting in info["settings"].items()
    ]
    return "\n".join(lines)
