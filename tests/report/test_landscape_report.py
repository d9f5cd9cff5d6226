"""The report of a landscape: log colours where they can be, unfinished grids, models off the plane."""

import pytest

from mofo.errors import UserError
from mofo.files import write_jsonl, write_text
from mofo.landscape import FILE_NAME, POINTS_NAME, End, Landscape, Point, Step, Values
from mofo.report.figures import svg
from mofo.report.landscape import maps, models_table, write_landscape_report
from mofo.results import Metric

LOSS = Metric(kind="learned", source="task", name="loss", label="held-out loss", unit="nats per token")
KL = Metric(kind="forgotten", source="divergence", name="kl", label="divergence", unit="nats per token")
CHOICE = Metric(kind="forgotten", source="choice", name="p", label="log-probability", higher_is_better=True)


def values(x, y):
    learned = {"loss": None if x > 1.2 else 2 - x}
    return Values(learned=learned, forgotten={"divergence": {"kl": x * x + y * y}, "choice": {"p": -x}})


def make(points=None):
    xs, ys = [-0.5, 0.0, 0.5, 1.0, 1.5], [-0.5, 0.0, 0.5, 1.0, 1.5]
    step = Step(x=0.4, y=0.1, off=0.05, l2=1.0, step=4)
    return Landscape(
        base="tiny",
        data="sums.jsonl",
        held_out_rows=3,
        settings={},
        unit=2.5,
        angle=40.0,
        at_base=values(0, 0),
        ends=[
            End(name="adamw", model="a", x=1, y=0, off=0, l2=2.5, values=values(1, 0), path=[step]),
            End(name="lion", model="b", x=0.6, y=1, off=0, l2=2.9, values=values(0.6, 1)),
            End(name="lora", model="c", x=0.1, y=0.1, off=1.3, l2=3.3, values=values(0.1, 0.1)),
        ],
        metrics=[LOSS, KL, CHOICE],
        xs=xs,
        ys=ys,
        points=[Point(x=x, y=y, values=values(x, y)) for y in ys for x in xs][:points],
    )


def write(found, folder):
    write_jsonl(folder / POINTS_NAME, [point.model_dump(mode="json") for point in found.points])
    write_text(folder / FILE_NAME, found.model_dump_json(by_alias=True, exclude={"points"}))
    return folder


def test_page_has_the_maps_the_models_and_what_is_missing(tmp_path):
    page = write_landscape_report(write(make(points=7), tmp_path)).read_text()
    assert "18 points of the grid are not measured yet" in page
    assert "Around tiny: adamw, lion, lora" in page
    assert "more than a tenth of a unit off the plane" in page
    assert (tmp_path / "plots" / "landscape.png").read_bytes().startswith(b"\x89PNG")
    page = write_landscape_report(write(make(), tmp_path)).read_text()
    assert "not measured yet" not in page
    assert "25 of 25 points" in page


def test_colours_are_logarithmic_where_a_number_is_positive_and_lower_is_better():
    scales = {panel.title: "log scale" in svg(panel) for panel in maps(make())}  # text stands beside its shapes
    assert scales == {"held-out loss": True, "divergence": True, "log-probability": False}


def test_nothing_measured_and_the_same_everywhere_are_drawn_without_a_map(tmp_path):
    assert "colours are interpolated" in write_landscape_report(write(make(points=0), tmp_path)).read_text()
    flat = [Point(x=x, y=0.0, values=Values(learned={"loss": 1.0})) for x in (0.0, 0.5)]
    write_landscape_report(write(make().model_copy(update={"points": flat}), tmp_path))


def test_table_has_the_numbers_of_the_models_themselves():
    heads, base, adamw, lion, lora = models_table(make())
    assert heads[-3:] == ["held-out loss", "divergence", "log-probability"]
    assert (base[0], base[1], base[-3]) == ("base", "0", "2.000")
    assert adamw[1:5] == ["1.00", "0", "0", "2.50"]
    assert lion[-2] == "1.360"
    assert lora[3] == "1.30"


@pytest.mark.parametrize(("file", "content"), [(FILE_NAME, "{}"), (POINTS_NAME, '{"x": 1}\n'), (POINTS_NAME, "x\n")])
def test_damaged_files_are_refused(tmp_path, file, content):
    write(make(), tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match="is damaged"):
        write_landscape_report(tmp_path)
