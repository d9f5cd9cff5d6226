"""The page and its figures, drawn from made-up results."""

import ast
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake import make_results, write_results
from matplotlib.figure import Figure
from PIL import Image

import mofo.report
from mofo.errors import UserError
from mofo.report import write_report
from mofo.report.figures import figures, style_of
from mofo.report.fronts import front

VOID = {"meta", "img", "br", "link", "input"}


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


def test_report_holds_every_part(drawn):
    page = Page((drawn / "report.html").read_text(encoding="utf-8"))
    for part in ("At equal learning", "At equal steps", "Learning curves", "Distance", "Time and memory", "Limits"):
        assert part in page.text
    assert "MoFO forgot less than AdamW" in page.text
    assert "Unfinished" not in page.text
    assert page.tags.count("img") == 5 + 2 + 2  # measures and distance, methods, L2 and moved


def test_report_is_self_contained(drawn):
    text = (drawn / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.links
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text


def test_plots_are_pictures(drawn):
    assert {path.name for path in (drawn / "plots").iterdir()} == {"forgetting.png", "learning.png", "distance.png"}
    for path in (drawn / "plots").iterdir():
        with Image.open(path) as image:
            assert image.width > 1000
            assert len(image.convert("RGB").getcolors(1 << 24)) > 50  # something is drawn


def test_a_front_below_every_shown_checkpoint_is_in_view():
    results = make_results(methods=("adamw",), learning_rates=(1e-4,), every=30)
    for point, (loss, text) in zip(results["runs"][0]["points"], [(1.9, 1.7), (1.1, 3.8)], strict=True):
        point["learned"]["loss"], point["forgotten"]["text"]["loss"] = loss, text
    axes = Figure().subplots()
    figures(results)["forgetting"][0].draw(axes)
    left, right = axes.get_xlim()
    lowest = min(amount.mean for loss, amount in front(results, "adamw", "text", "loss") if right <= loss <= left)
    assert axes.get_ylim()[0] <= lowest < 0


def test_drawing_again_gives_the_same_files(drawn):
    before = files(drawn)
    write_report(drawn)
    assert files(drawn) == before


def test_user_text_is_escaped(tmp_path):
    evil = "<script>alert('x')</script>"
    results = make_results(learning_rates=(1e-4,), probes={evil: {"loss": 2.0}})
    results["recipe"] |= {"model": f"a{evil}", "data": evil, evil: evil}
    results["hardware"]["processor"] = evil
    page = Page(write_report(write_results(tmp_path, results)).read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert evil in page.text


def test_mathtext_in_a_name_is_not_interpreted(tmp_path):
    write_report(write_results(tmp_path, make_results(learning_rates=(1e-4,), probes={r"$\bad{$": {"loss": 2.0}})))


@pytest.mark.parametrize("content", [None, "", "{", '{"schema": 9}'])
def test_bad_results_write_nothing(tmp_path, content):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    before = files(tmp_path)
    with pytest.raises(UserError):
        write_report(tmp_path)
    assert files(tmp_path) == before
    assert not (tmp_path / "plots").exists()


def test_a_failed_write_leaves_the_old_report(drawn, monkeypatch):
    before = files(drawn)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "chmod", full)
    with pytest.raises(UserError, match="No space left"):
        write_report(drawn)
    assert files(drawn) == before


def test_unfinished_results_are_drawn_and_say_so(tmp_path):
    results = make_results(learning_rates=(1e-4, 2e-4))
    results["complete"] = False
    results["runs"] = results["runs"][:2]
    last = results["runs"][1]
    last["points"] = last["points"][:1]
    for key in ("distance", "seconds", "peak_memory_bytes", "training"):
        del last[key]
    text = Page(write_report(write_results(tmp_path, results)).read_text(encoding="utf-8")).text
    assert "Unfinished." in text
    assert "1 runs have reached step 60, 1 have not; MoFO: not measured yet" in text


def test_no_runs_yet(tmp_path):
    results = make_results() | {"runs": [], "complete": False}
    page = Page(write_report(write_results(tmp_path, results)).read_text(encoding="utf-8"))
    assert "no run has been measured yet" in page.text
    assert "img" not in page.tags


def test_nulls_everywhere(tmp_path):
    results = make_results(learning_rates=(1e-4,))
    for run in results["runs"]:
        run["distance"] |= {"l2": None, "moved": None, "layers": [{"layer": "0", "l2": 1.0, "moved": None}]}
        run |= {"peak_memory_bytes": None, "seconds": None}
        for point in run["points"]:
            point["learned"]["accuracy"] = None
            point["forgotten"]["choice"] = {"accuracy": None, "log_probability": None}
            point["distance"] = None
    results["runs"][0]["points"][1]["learned"]["loss"] = None
    text = Page(write_report(write_results(tmp_path, results)).read_text(encoding="utf-8")).text
    assert "not a finite number: adamw-lr0.0001-s0" in text


def test_colours_are_the_methods_own():
    both = style_of(make_results(methods=("mofo", "adamw", "mofo-random")))
    alone = style_of(make_results(methods=("mofo",)))
    assert both["mofo"] == alone["mofo"]
    assert len(set(both.values())) == 3


def test_the_room_imports_no_model_library():
    for path in Path(mofo.report.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] not in {"torch", "transformers", "trl", "datasets"}
                assert not name.startswith(("mofo.optim", "mofo.models", "mofo.compare", "mofo.measure"))
