"""Parts of other packages: an installed package offers its own by an entry point, and every command knows them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from mofo.errors import UserError, first_line
from mofo.methods.part import Part

GROUP = "mofo.parts"
"""The group of entry points; each is one class, and its value says where: `package.module:Class`."""


def offered_parts(known: Sequence[type[Part]]) -> list[type[Part]]:
    """Return the parts that installed packages offer, in the order of their entry points' names.

    Args:
        known: The parts that there are already.

    Raises:
        UserError: What a package offers cannot be loaded, is no part, or has the name of another part.
    """
    found: list[type[Part]] = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        part = _load(point)
        if any(part.name == other.name for other in (*known, *found)):
            raise UserError(f"{_whose(point)} is called {part.name}, as another part is: give it another name.")
        found.append(part)
    return found


def _load(point: EntryPoint) -> type[Part]:
    try:
        part = point.load()
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{_whose(point)} cannot be loaded ({why}): mend the package, or uninstall it.") from error
    described = ("name", "label", "__doc__")
    if not (inspect.isclass(part) and issubclass(part, Part) and all(getattr(part, key, None) for key in described)):
        raise UserError(
            f"{_whose(point)} is not a part of a method: expected a class made from Part or OptimizerPart of "
            "mofo.methods.part, with name, label and docstring."
        )
    return part


def _whose(point: EntryPoint) -> str:
    package = point.dist.name if point.dist else "an installed package"
    return f"{point.value}, which {package} offers as a part,"
