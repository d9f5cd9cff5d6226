"""An entry of a recipe's `methods`: a method's name, or a mapping from its parts to their settings.

Beside parts it may have `seeds`, `tune` and an `order` of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from mofo.compare.recipe_settings import OWN
from mofo.errors import UserError, first_problem
from mofo.methods.method import Entry


def own_setting(entry: Entry, name: str, default: Any) -> Any:
    """Return a setting of an entry of `methods`, which may have its own."""
    if isinstance(entry, str) or name not in entry:
        return default
    try:
        return getattr(OWN[name].model_validate({name: entry[name]}), name)
    except ValidationError as error:
        raise UserError(f"methods has an entry of its own {name}: {first_problem(error)}.") from None


def method_alone(entry: Entry) -> Entry:
    """Return an entry of `methods` without what is not of its parts."""
    if isinstance(entry, str):
        return entry
    if "method" in entry:
        raise UserError(
            f"methods has {dict(entry)}, in a form of earlier versions: write {{mofo: {{learning_rate: 1e-4}}, "
            "seeds: [0]}, a mapping from parts to their settings."
        )
    return {name: values for name, values in entry.items() if name not in OWN}


def without_own(entry: Entry, changes: Mapping[str, Any]) -> Entry:
    """Return an entry of a file without the settings and seeds that the command line gives for all of them."""
    if isinstance(entry, str):
        return entry
    given = changes.get("settings", {})
    return {
        part: {key: value for key, value in own.items() if key not in given and f"{part}.{key}" not in given}
        if isinstance(own, dict)
        else own
        for part, own in entry.items()
        if part not in OWN or part not in changes
    }
