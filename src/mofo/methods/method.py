"""Methods: an optimizer and any number of extras, their names, and the grids that recipes make of them.

A recipe writes a method as `mofo`, as `mofo+l2`, or as a mapping from parts to settings,
`{mofo: {fraction: [0.05, 0.15]}, l2: {}}`. A list where a setting has one value is an axis of the grid.
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, NoReturn

from pydantic import ValidationError

from mofo.errors import UserError, closest, first_problem
from mofo.methods import parts
from mofo.methods.adamw import AdamW
from mofo.methods.part import OptimizerPart, Part, note_of
from mofo.results import MethodInfo, Scalar, SettingInfo

Entry = str | Mapping[str, Any]
"""A method, or a grid of settings of one, as a recipe writes it."""


@dataclass(frozen=True)
class Method:
    """One way to fine-tune, with a value for each setting.

    Attributes:
        optimizer: The optimizer.
        extras: What goes with it, in the order of the recipe.
    """

    optimizer: OptimizerPart
    extras: tuple[Part, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The optimizer and the extras."""
        return (self.optimizer, *self.extras)

    @property
    def name(self) -> str:
        """Name of the method, `mofo-gradient+l2`: the same for all points of its grid."""
        return "+".join("-".join([part.name, *_variants(part)]) for part in self.parts)

    @property
    def info(self) -> MethodInfo:
        """The method as `results.json` has it."""
        labels = []
        for part in self.parts:
            variants = ", ".join(_variants(part).values())
            labels.append(f"{part.label} ({variants})" if variants else part.label)
        return MethodInfo(label=" + ".join(labels), parts=[part.name for part in self.parts])

    @property
    def settings(self) -> dict[str, Scalar]:
        """The settings that a run is named after, by key: `lr` and its like always, others where changed."""
        values = {key: getattr(part, name) for part, name, key in self._shown()}
        return {key: value for key, value in values.items() if not isinstance(value, tuple)}

    @property
    def run_name(self) -> str:
        """Name of a run of the method but for its seed, `mofo-lr0.0001-f0.15`."""
        words = [self.name]
        for part, name, _ in self._shown():
            short = note_of(type(part), name).short
            words.append(f"{short if part is self.optimizer else f'{part.name}.{short}'}{_text(getattr(part, name))}")
        return "-".join(words)

    def at_learning_rate(self, rate: float) -> Method:
        """Return the method with another learning rate."""
        return Method(self.optimizer.model_copy(update={"learning_rate": rate}), self.extras)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return all settings by part, as a recipe writes them; `make_method` reads them again."""
        return {part.name: part.model_dump(mode="json") for part in self.parts}

    def setting_info(self, key: str) -> SettingInfo:
        """Return a setting of the method, by its key in `settings`, as `results.json` has it."""
        part_name, _, name = key.rpartition(".")
        part = next((part for part in self.extras if part.name == part_name), self.optimizer)
        label = note_of(type(part), name).label
        description = type(part).model_fields[name].description or ""
        return SettingInfo(
            label=f"{part.label} {label}" if part_name else label,
            description=description,
            is_rate=not part_name and name == "learning_rate",
        )

    def flags(self, given: Collection[str]) -> str:
        """Return the flags of `mofo compare` that make this method of any recipe.

        Args:
            given: The recipe's common settings, which are overridden.
        """
        words = [f"--methods {'+'.join(part.name for part in self.parts)}"]
        for part in self.parts:
            for name, field in type(part).model_fields.items():
                key, value = f"{part.name}.{name}", getattr(part, name)
                if value != field.default or name in given or key in given:
                    values = value if isinstance(value, tuple) else [value]
                    words.append(f"--set {key}={','.join(json.dumps(v).strip(chr(34)) for v in values)}")
        return " ".join(words)

    def _shown(self) -> Iterator[tuple[Part, str, str]]:
        """Yield part, name and key of each setting that is part of a run's name."""
        for part in self.parts:
            for name, field in type(part).model_fields.items():
                note = note_of(type(part), name)
                if not note.variants and (note.in_name or getattr(part, name) != field.default):
                    yield part, name, name if part is self.optimizer else f"{part.name}.{name}"


def make_method(entry: Mapping[str, Mapping[str, Any]]) -> Method:
    """Return the method of a mapping from parts to settings, each with one value.

    Raises:
        UserError: A part or a setting is unknown, a value is out of range, or there is not exactly one optimizer.
    """
    made = [_make(_part_class(name), values) for name, values in entry.items()]
    optimizers = [part for part in made if isinstance(part, OptimizerPart)]
    if len(optimizers) > 1:
        raise UserError(f"A method has one optimizer, not {' and '.join(part.name for part in optimizers)}.")
    extras = tuple(part for part in made if not isinstance(part, OptimizerPart))
    return Method(optimizers[0] if optimizers else AdamW(), extras)


def expand(entry: Entry, settings: Mapping[str, Any]) -> list[Method]:
    """Return every method that an entry of a recipe stands for.

    Args:
        entry: `mofo`, `mofo+l2`, or a mapping from parts to settings. A method without an optimizer has AdamW.
        settings: Values or lists of values for every part that has a setting of that name (`learning_rate`), or for
            one part (`l2.strength`). What the entry itself says goes before.

    Raises:
        UserError: As `make_method`; or an axis is empty.
    """
    given = _settings_by_part(entry)
    axes = []
    for name, own in given.items():
        fields = _part_class(name).model_fields
        common = {key: settings[key] for key in fields if key in settings}
        qualified = {key: settings[f"{name}.{key}"] for key in fields if f"{name}.{key}" in settings}
        for key, values in (common | qualified | own).items():
            takes_list = key in fields and typing.get_origin(fields[key].annotation) is tuple
            choices = list(values) if isinstance(values, list | tuple) and not takes_list else [values]
            if not choices:
                raise UserError(f"{name}.{key} is empty: give at least one value.")
            axes.append([(name, key, value) for value in choices])
    methods = []
    for point in product(*axes):
        chosen: dict[str, dict[str, Any]] = {name: {} for name in given}
        for name, key, value in point:
            chosen[name][key] = value
        methods.append(make_method(chosen))
    return methods


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check that each of a recipe's common settings belongs to some part.

    Raises:
        UserError: No part has a setting of that name.
    """
    known = {key for part in parts.PARTS for name in part.model_fields for key in (name, f"{part.name}.{name}")}
    for key in settings:
        if key not in known:
            raise UserError(f"No method has a setting {key!r}{closest(key, known)}.")


def unused_settings(entries: Iterable[Entry], settings: Mapping[str, Any]) -> list[str]:
    """Return the keys of a recipe's common settings that decide nothing.

    No part of any entry has such a setting, or all that do have a value of their own.

    Args:
        entries: The entries of the recipe.
        settings: As for `expand`.

    Raises:
        UserError: A part is unknown, or an entry has the wrong form.
    """
    used = set()
    for entry in entries:
        for name, own in _settings_by_part(entry).items():
            for key in _part_class(name).model_fields.keys() - own.keys():
                used.add(f"{name}.{key}" if f"{name}.{key}" in settings else key)
    return [key for key in settings if key not in used]


def refuse_unused(key: str, entries: Iterable[Entry]) -> NoReturn:
    """Refuse a common setting that decides nothing.

    Raises:
        UserError: Always; it says why, and what to do.
    """
    found = list(dict.fromkeys(part for entry in entries for part in _settings_by_part(entry)))
    part_name, _, name = key.rpartition(".")
    takers = [part for part in parts.PARTS if name in part.model_fields and part_name in ("", part.name)]
    if any(part.name in found for part in takers):
        raise UserError(f"{key} is set, but each method that has it has a value of its own: leave one of the two out.")
    what = f"has the part {part_name}" if part_name else f"has a setting {name}"
    first = takers[0]
    added = first.name if issubclass(first, OptimizerPart) else f"{found[0]}+{first.name}"
    raise UserError(
        f"{key} is set, but no method {what} (their parts: {', '.join(found)}): add one to the methods, such as "
        f"{added}, or leave the setting out."
    )


def names_optimizer(entry: Entry) -> bool:
    """Return whether an entry of a recipe says with which optimizer.

    Raises:
        UserError: A part is unknown, or the entry has the wrong form.
    """
    return any(issubclass(_part_class(name), OptimizerPart) for name in _own_settings(entry))


def _settings_by_part(entry: Entry) -> dict[str, dict[str, Any]]:
    """Return an entry's own settings by part; one without an optimizer has AdamW."""
    given = _own_settings(entry)
    return given if names_optimizer(entry) else {AdamW.name: {}, **given}


def _own_settings(entry: Entry) -> dict[str, dict[str, Any]]:
    if isinstance(entry, str):
        names = entry.split("+")
        if "" in names:
            raise UserError(f"The method {entry!r} names no part beside a +: write it as mofo+self-distill.")
        if len(set(names)) < len(names):
            raise UserError(f"The method {entry!r} names a part twice.")
        return {name: {} for name in names}
    for name, values in entry.items():
        if values is not None and not isinstance(values, Mapping):
            raise UserError(
                f"methods has {name}: {values!r}, expected a mapping of settings, such as {{{name}: {{}}}}."
            )
    return {name: dict(values or {}) for name, values in entry.items()}


def _part_class(name: str) -> type[Part]:
    for part in parts.PARTS:
        if part.name == name:
            return part
    for part in parts.PARTS:
        for key in part.model_fields:
            value = name.removeprefix(f"{part.name}-")
            if value in note_of(part, key).variants:
                raise UserError(f"The method {name!r} is {part.name} with the setting {part.name}.{key} = {value}.")
    names = [part.name for part in parts.PARTS]
    raise UserError(f"Unknown method {name!r}{closest(name, names)}: choose from {', '.join(names)}.")


def _make(part: type[Part], values: Mapping[str, Any]) -> Part:
    for key in values:
        if key not in part.model_fields:
            known = ", ".join(part.model_fields) or "none"
            raise UserError(f"{part.name} has no setting {key!r}{closest(key, part.model_fields)}: it has {known}.")
    try:
        return part(**values)
    except ValidationError as error:
        raise UserError(f"{part.name}.{first_problem(error)}.") from None


def _variants(part: Part) -> dict[str, str]:
    """Return the values of the part's settings that make a method of their own, with their labels."""
    values = [(str(getattr(part, name)), note_of(type(part), name).variants) for name in type(part).model_fields]
    return {value: labels[value] for value, labels in values if value in labels}


def _text(value: Scalar | tuple[Scalar, ...]) -> str:
    """Return a value as a part of a folder's name."""
    if isinstance(value, tuple):
        return "_".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else re.sub(r"[^\w.]+", "_", str(value))
