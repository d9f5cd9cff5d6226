"""`docs/results.md`: an example of `results.json`, and every class of it with its fields, types and meanings."""

from __future__ import annotations

import json
import re
import types
import typing
from typing import Annotated, Any, Literal

from pydantic import BaseModel

from mofo.results import (
    SCHEMA,
    Distance,
    Errors,
    FinalDistance,
    Hardware,
    LayerDistance,
    MethodInfo,
    Metric,
    Paired,
    Pairings,
    Plan,
    Point,
    Results,
    Run,
    Sample,
    Scalar,
    Seconds,
    SettingInfo,
    Task,
    TaskPlan,
    TrainingStep,
)

_INTRODUCTION = """# results.json

What `mofo compare` measured, in one file per output folder. `mofo report` draws tables, figures and the page from it
alone. This is schema {schema}; files of another schema are refused. This page is made from
[src/mofo/results.py](../src/mofo/results.py) by `make docs`.

```json
{example}
```

The file describes itself: `methods`, `settings` and `metrics` name everything that it holds, with labels and units.
Losses and divergences are in nats per token, times in seconds, sizes in bytes, shares between 0 and 1. A number is
`null` where it was not measured, or where it was infinite or NaN because the run diverged. Fields that have a default
may be absent, as they are while a run is under way.

*Forgotten* is the change of a probe's metric from the base, with the sign that makes worse positive.

A standard error says how far a number may be off because other questions, windows, rows or texts might have been drawn.
That of a change compares each question with itself, so that it is smaller than the errors of the two numbers.

What mofo itself measures:
- of a task: `loss`, the mean cross-entropy of held-out rows, of the completion alone where there is one; `accuracy`,
  the share of held-out problems whose generated answer is exactly right
- text probes: `loss`, the mean cross-entropy of a text
- the divergence probe: `kl`, KL(base ‖ tuned) on text that the base wrote; 0 for the base
- choice probes: `accuracy`, the share of questions answered correctly; `log_probability`, the mean of the correct
  answer's, in nats
- tasks of lm-evaluation-harness: its metrics by its names, such as `acc_norm`, and `strict-match exact_match` where a
  task has several ways to read an answer
"""


def document() -> str:
    """Return `docs/results.md`: an example, and every class of the file with its fields, types and meanings."""
    lines = [_INTRODUCTION.format(schema=SCHEMA, example=_compact(example()))]
    records = (Results, Task, Plan, TaskPlan, Hardware, MethodInfo, SettingInfo, Metric, Run, Point, Errors, Pairings)
    for record in (*records, Paired, Distance, FinalDistance, LayerDistance, TrainingStep, Seconds, Sample):
        lines += [f"## {record.__name__}", (record.__doc__ or "").replace("\n    ", "\n").strip(), ""]
        lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
        for name, field in record.model_fields.items():
            default = "" if field.is_required() else f"`{_default(field.default)}`"
            cells = [f"`{field.alias or name}`", _type_name(field.annotation), default, field.description]
            lines.append(f"| {' | '.join(map(str, cells))} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def example() -> Results:
    """Return small results, as `document` shows them."""
    task = "gsm_symbolic"
    layer = LayerDistance(layer="embed_tokens", l2=1.0, moved=0.1, parameters=28_311_552)
    return Results(
        complete=True,
        model="smollm2-135m",
        tasks=[Task(name=task, data="reasoning-gym:gsm_symbolic")],
        recipe={"methods": ["adamw", "mofo"], "seeds": [0], "steps": 60, "batch_size": 8},
        plan=Plan(total_steps=60, training_rows=480, held_out_rows=100, precision="float32"),
        versions={"mofo": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0"},
        hardware=Hardware(processor="AMD EPYC", cores=2, memory_bytes=25_000_000_000, device="cpu"),
        reference="adamw",
        methods={
            "adamw": MethodInfo(label="AdamW", parts=["adamw"]),
            "mofo": MethodInfo(label="MoFO", parts=["mofo"]),
        },
        settings={
            "learning_rate": SettingInfo(label="lr", description="peak learning rate", is_rate=True),
            "fraction": SettingInfo(label="fraction", description="share of entries that move at a step"),
        },
        metrics=[
            Metric(kind="learned", source=task, name="loss", task=task, label="held-out loss", unit="nats per token"),
            Metric(kind="forgotten", source="divergence", name="kl", label="divergence", unit="nats per token"),
            Metric(kind="distance", source="weights", name="moved", label="entries moved", unit="%", scale=100.0),
        ],
        base=Point(
            step=0,
            learned={task: {"loss": 2.11}},
            forgotten={"divergence": {"kl": 0.0}},
            errors=Errors(learned={task: {"loss": 0.05}}, forgotten={"divergence": {"kl": 0.0}}),
        ),
        samples=[
            Sample(prompt="Question: What is 2 + 3?\nAnswer:", expected="2 + 3 = 5\n#### 5", answer=" 2 + 3 = 23")
        ],
        runs=[
            Run(
                name="mofo-f0.15-lr0.0001-s0",
                method="mofo",
                settings={"learning_rate": 1e-4, "fraction": 0.15},
                seed=0,
                points=[
                    Point(
                        step=60,
                        tokens=61_440,
                        task=task,
                        learned={task: {"loss": 1.3}},
                        forgotten={"divergence": {"kl": 0.15}},
                        errors=Errors(learned={task: {"loss": 0.04}}, forgotten={"divergence": {"kl": 0.008}}),
                        change_errors=Errors(learned={task: {"loss": 0.02}}, forgotten={"divergence": {"kl": 0.008}}),
                        distance=Distance(l2=3.9, moved=0.44),
                    )
                ],
                training=[TrainingStep(step=1, loss=1.9, learning_rate=9e-5)],
                distance=FinalDistance(l2=3.9, moved=0.44, relative=0.004, layers=[layer]),
                samples=[" 2 + 3 = 5\n#### 5"],
                model="runs/mofo-f0.15-lr0.0001-s0/model",
                command="--methods mofo --set mofo.learning_rate=0.0001 --set mofo.fraction=0.15 --seeds 0",
                seconds=Seconds(optimizer=12.1, training=200.0, measuring=60.0, total=275.0),
                peak_memory_bytes=3_100_000_000,
            )
        ],
    )


def _compact(results: Results) -> str:
    """Return the JSON of results with a line for each of the innermost lists and objects."""
    text = results.model_dump_json(by_alias=True, indent=2)
    return re.sub(r"[\[{][^\[\]{}]*[\]}]", lambda inner: " ".join(inner[0].split()), text)


def _default(value: Any) -> str:
    return value.model_dump_json(exclude_defaults=True) if isinstance(value, BaseModel) else json.dumps(value)


def _type_name(annotation: Any) -> str:
    """Return a field's type in words that a reader of JSON knows."""
    if annotation == Scalar:
        return "text, number or boolean"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is list:
        return f"list of {_type_name(arguments[0])}"
    if origin is dict:
        return f"object of {_type_name(arguments[1])}"
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type_name(argument) for argument in arguments)
    names = {float: "number", int: "integer", str: "text", bool: "boolean", type(None): "`null`", Any: "any"}
    return names.get(annotation) or f"[{annotation.__name__}](#{annotation.__name__.lower()})"


if __name__ == "__main__":
    print(document(), end="")
