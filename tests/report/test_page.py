"""The page and its figures, drawn from made-up results."""

import ast
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake import TASK, change_runs, make_results, write_results
from matplotlib.figure import Figure
from PIL import Image

import mofo.report
from mofo.errors import UserError
from mofo.report import Comparison, write_report
from mofo.report.fronts import front
from mofo.report.sections import forgetting
from mofo.results import FinalDistance, LayerDistance

VOID = {"meta", "img", "br", "link", "input", "source"}


class Page(HTMLParser):
    """Checks that tags nest, and keeps what a page could load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = write_results(tmp_path_factory.mktemp("drawn"), make_results(learning_rates=(1e-4, 3e-4), seeds=(0, 1)))
    return write_report(folder).parent


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_page_holds_every_section(drawn):
    page = Page((drawn / "report.html").read_text(encoding="utf-8"))
    for part in ("At equal learning", "At equal steps", "Learning curves", "Distance", "Time and memory", "Limits"):
        assert part in page.text
    assert "MoFO forgot less than AdamW" in page.text
    assert "Unfinished" not in page.text
    assert page.tags.count("img") == 3 + 5 + 2 + 2  # headlines, measures and distance, methods, L2 and moved
    assert page.tags.count("source") == page.tags.count("img")  # each for a dark page as well


def test_page_is_self_contained(drawn):
    text = (drawn / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.links
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text


def test_plots_are_pictures(drawn):
    assert {path.name for path in (drawn / "plots").iterdir()} == {
        f"{name}.png" for name in ("equal_learning", "forgetting", "learning", "distance")
    }
    for path in (drawn / "plots").iterdir():
        with Image.open(path) as image:
            assert image.width > 700
            assert len(image.convert("RGB").getcolors(1 << 24)) > 50  # something is drawn


def test_front_below_every_shown_checkpoint_is_in_view():
    results = make_results(methods=("adamw",), learning_rates=(1e-4,), every=30)
    for point, (loss, text) in zip(results.runs[0].points, [(1.9, 1.7), (1.1, 3.8)], strict=True):
        point.learned[TASK]["loss"], point.forgotten["text"]["loss"] = loss, text
    comparison = Comparison(results)
    axes = Figure().subplots()
    forgetting.section(comparison).plot.panels[0].draw(axes)
    left, right = axes.get_xlim()
    points = front(comparison, "adamw", comparison.forgotten[0])
    lowest = min(amount.mean for loss, amount in points if right <= loss <= left)
    assert axes.get_ylim()[0] <= lowest < 0


def test_report_drawn_again_is_the_same(drawn):
    before = files(drawn)
    write_report(drawn)
    assert files(drawn) == before


def test_user_text_is_escaped(tmp_path):
    evil = "<script>alert('x')</script>"
    results = make_results(learning_rates=(1e-4,), probes={evil: {"loss": 2.0}})
    hardware = results.hardware.model_copy(update={"processor": evil})
    task = results.tasks[0].model_copy(update={"data": evil})
    update = {"model": f"a{evil}", "recipe": {evil: evil}, "hardware": hardware, "tasks": [task]}
    page = Page(write_report(write_results(tmp_path, results.model_copy(update=update))).read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert page.text.count(evil) >= 6


def test_mathtext_in_a_name_is_not_interpreted(tmp_path):
    write_report(write_results(tmp_path, make_results(learning_rates=(1e-4,), probes={r"$\bad{$": {"loss": 2.0}})))


@pytest.mark.parametrize("content", [None, "", "{", '{"schema": 1}'])
def test_report_of_bad_results_writes_nothing(tmp_path, content):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    before = files(tmp_path)
    with pytest.raises(UserError):
        write_report(tmp_path)
    assert files(tmp_path) == before
    assert not (tmp_path / "plots").exists()


def test_report_that_cannot_be_written_leaves_the_old_one(drawn, monkeypatch):
    before = files(drawn)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        write_report(drawn)
    assert files(drawn) == before


def test_page_of_unfinished_results_says_so(tmp_path):
    results = make_results(learning_rates=(1e-4, 2e-4))
    first, second = results.runs[:2]
    nothing = {"distance": None, "seconds": None, "peak_memory_bytes": None, "training": []}
    second = second.model_copy(update={"points": second.points[:1], **nothing})
    results = results.model_copy(update={"complete": False, "missing": ["a", "b"], "runs": [first, second]})
    text = Page(write_report(write_results(tmp_path, results)).read_text(encoding="utf-8")).text
    assert "Unfinished." in text
    assert "1 run at step 60; 1 under way; not measured yet: MoFO. The command below resumes it." in text
    assert "Unfinished, 2 runs of the plan are missing; so far" in text
    assert f"mofo compare --recipe {tmp_path.name}/recipe.yaml --output {tmp_path.name}" in text


def test_page_without_runs(tmp_path):
    results = make_results().model_copy(update={"runs": [], "complete": False})
    page = Page(write_report(write_results(tmp_path, results)).read_text(encoding="utf-8"))
    assert "no run has been measured yet" in page.text
    assert "img" not in page.tags
    assert not (tmp_path / "plots").exists()


def test_page_of_nulls_everywhere(tmp_path):
    layer = LayerDistance(layer="0", l2=1.0, moved=None, parameters=1)
    nothing = {
        "distance": FinalDistance(l2=None, moved=None, layers=[layer]),
        "peak_memory_bytes": None,
        "seconds": None,
    }
    results = change_runs(make_results(learning_rates=(1e-4,)), lambda run: run.model_copy(update=nothing))
    for run in results.runs:
        for i, point in enumerate(run.points):
            point.learned[TASK]["accuracy"] = None
            point.forgotten["choice"] = {"accuracy": None, "log_probability": None}
            run.points[i] = point.model_copy(update={"distance": None})
    results.runs[0].points[1].learned[TASK]["loss"] = None
    text = Page(write_report(write_results(tmp_path, results)).read_text(encoding="utf-8")).text
    assert "not a finite number: adamw-lr0.0001-s0" in text
    assert "Time" not in text


def test_page_of_runs_that_diverged_at_once(tmp_path):
    results = make_results(learning_rates=(1e-4,))
    for run in results.runs:
        run.points[:] = [
            point.model_copy(
                update={
                    "learned": {TASK: {"loss": None}},
                    "forgotten": {probe: dict.fromkeys(numbers) for probe, numbers in point.forgotten.items()},
                }
            )
            for point in run.points
        ]
    results = change_runs(
        results,
        lambda run: run.model_copy(
            update={"training": [step.model_copy(update={"loss": None}) for step in run.training]}
        ),
    )
    page = Page(write_report(write_results(tmp_path, results)).read_text(encoding="utf-8"))
    assert "every configuration of MoFO and AdamW diverged" in page.text


def test_page_of_fourteen_methods(tmp_path):
    results = make_results(learning_rates=(1e-4,))
    template, methods = results.runs[1], {"adamw": results.methods["adamw"]}
    for i in range(13):
        methods[f"m{i}"] = results.methods["mofo"].model_copy(update={"label": f"Method {i}"})
        results.runs.append(template.model_copy(update={"name": f"m{i}-s0", "method": f"m{i}"}, deep=True))
    del results.runs[1]
    results = results.model_copy(update={"methods": methods})
    page = Page(write_report(write_results(tmp_path, results)).read_text(encoding="utf-8"))
    assert "14 methods on smollm2-135m" in page.text
    assert all(f"Method {i}" in page.text for i in range(13))


def test_report_imports_no_model_library():
    for path in Path(mofo.report.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] not in {"torch", "transformers", "trl", "datasets"}
                assert not name.startswith(("mofo.optim", "mofo.models", "mofo.compare", "mofo.measure"))


def test_page_names_no_home_folder(tmp_path):
    results = make_results(learning_rates=(1e-4,))
    results = results.model_copy(update={"recipe": {"data": str(Path.home() / "secret" / "data.jsonl")}})
    text = write_report(write_results(tmp_path / "out", results)).read_text(encoding="utf-8")
    assert "~/secret/data.jsonl" in text
    assert str(Path.home()) not in text
    assert str(tmp_path) not in text
