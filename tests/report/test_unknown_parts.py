"""Methods, settings, tasks and probes that mofo does not have: the report shows them by what the file says of them."""

import re

import pytest
from rich.console import Console

from mofo.report import Comparison, summary_table, verdict, write_report
from mofo.report.sections import SECTIONS
from mofo.results import Distance, MethodInfo, Metric, Point, Results, Run, SettingInfo, Task, write_results


def point(step, loss, rhymes, drift, task="verses"):
    return Point(
        step=step,
        task=task if step else None,
        learned={"verses": {"surprise": loss}},
        forgotten={"poems": {"rhymes": rhymes, "drift": drift}},
        distance=Distance(l2=drift, moved=1.0) if step else None,
    )


def run(method, seed, points, **settings):
    settings = {name.replace("__", "."): value for name, value in settings.items()}
    return Run(name=f"{method}-{settings}-{seed}", method=method, settings=settings, seed=seed, points=points)


@pytest.fixture(scope="module")
def results():
    """Two invented methods, the second with an extra that has settings of its own, and three seeds each."""
    return Results(
        complete=True,
        model="somebody/bard-1b",
        tasks=[Task(name="verses", data="verses.jsonl")],
        recipe={"methods": ["zen", {"zen": {}, "anchor": {"pull": [1, 2]}}]},
        reference="zen",
        methods={
            "zen": MethodInfo(label="Zen", parts=["zen"]),
            "zen+anchor": MethodInfo(label="Zen + Anchor", parts=["zen", "anchor"]),
        },
        settings={
            "calm": SettingInfo(label="calmness"),
            "anchor.pull": SettingInfo(label="Anchor pull"),
            "anchor.mode": SettingInfo(label="Anchor mode"),
        },
        metrics=[
            Metric(kind="learned", source="verses", name="surprise", task="verses", label="surprise", unit="bits"),
            Metric(
                kind="forgotten",
                source="poems",
                name="rhymes",
                label="rhymes kept",
                unit="per mille",
                scale=1000,
                higher_is_better=True,
            ),
            Metric(kind="forgotten", source="poems", name="drift", label="poetic drift", unit="ells"),
            Metric(kind="distance", source="weights", name="l2", label="way walked", unit="miles"),
        ],
        base=point(0, 4.0, 0.9, 0.0),
        runs=[
            run(
                "zen", seed, [point(5, 3.0, 0.7, 0.5), point(10, 2.0, 0.5 + 0.001 * seed, 0.8 + 0.001 * seed)], calm=0.5
            )
            for seed in range(3)
        ]
        + [
            run(
                "zen+anchor",
                seed,
                [point(5, 3.0, 0.8, 0.2), point(10, 2.0, 0.7 + 0.001 * seed, 0.4 / pull + 0.001 * seed)],
                calm=0.5,
                anchor__pull=pull,
                anchor__mode="soft",
            )
            for pull in (1, 2)
            for seed in range(3)
        ],
    )


def test_unknown_parts_are_in_the_terminals_table(results):
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(Comparison(results), 200))
    text = console.export_text()
    words = set(text.split())
    assert {"Zen", "Anchor", "pull", "surprise", "rhymes", "kept", "per", "mille", "drift", "walked"} <= words
    assert "Equal in all runs: calmness 0.5 and Anchor mode soft." in " ".join(text.split())
    assert "calmness" not in text.split("──")[0]
    assert re.search(r"Zen \+ Anchor +2 +2\.000 ±0\.000 +199\.0 ±1\.0", text)  # of 0.9 rhymes kept 0.701 are left


def test_unknown_parts_are_in_the_verdict(results):
    sentence = verdict(Comparison(results))
    assert sentence.startswith(
        "At equal learning (surprise 2.000), Zen + Anchor forgot less than Zen on rhymes kept (199"
    )
    assert re.search(r"poetic drift \(0\.2010 ± 0\.0010 against 0\.8010 ± 0\.0010, 75 % less\)", sentence)
    assert sentence.endswith(
        "3 seeds each; from the best of the configurations that learned as much (2 of 2 and 1 of 1)."
    )


def test_unknown_parts_are_in_page_and_plots(results, tmp_path):
    write_results(results, tmp_path)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    for words in ("Zen and Zen + Anchor on bard-1b", "verses.jsonl", "rhymes kept<small>per mille", "surprise 2.000"):
        assert words in text
    assert "Anchor pull\u00a02 · 3\u00a0seeds" in text
    assert "The same in all runs that have it: calmness\u00a00.5 and Anchor mode\u00a0soft." in text
    assert "held-out loss" not in text
    comparison = Comparison(results)
    titles = {
        section.plot.name: [panel.title for panel in section.plot.panels]
        for make in SECTIONS
        if (section := make(comparison)) is not None and section.plot is not None
    }
    assert titles == {
        "equal_learning": ["rhymes kept", "poetic drift"],
        "forgetting": ["rhymes kept", "poetic drift", "way walked"],
        "learning": ["Zen", "Zen + Anchor"],
    }
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == set(titles)
