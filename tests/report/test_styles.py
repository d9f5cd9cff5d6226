"""Colours and markers."""

from itertools import pairwise

from fake import make_comparison

from mofo.report.styles import make_styles

MANY = [f"method-{i}" for i in range(42)]


def test_styles_of_many_methods_are_distinct():
    styles = make_styles([*MANY, "reference"], "reference")
    assert len({(style.colour, style.marker) for style in styles.values()}) == len(styles) == 43
    assert len({(style.colour, style.line) for style in list(styles.values())[:14]}) == 14


def test_styles_of_neighbours_share_neither_colour_nor_marker():
    for before, after in pairwise(make_styles(MANY, None).values()):
        assert before.colour != after.colour
        assert before.marker != after.marker


def test_reference_has_the_same_style_wherever_it_stands():
    first, last = make_styles(["a", "b"], "a"), make_styles(["b", "c", "a"], "a")
    assert first["a"] == last["a"]
    assert first["a"].colour not in {style.colour for style in make_styles(MANY, None).values()}


def test_methods_keep_their_styles_while_others_are_missing():
    both = make_comparison(methods=("mofo", "adamw", "mofo-random"))
    alone = make_comparison(methods=("mofo",))
    assert both.styles["mofo"] == alone.styles["mofo"]
    assert len(set(both.styles.values())) == 3
    unfinished = make_comparison(methods=("adamw", "mofo", "mofo-random"))
    del unfinished.results.runs[:8]
    assert unfinished.methods == ["mofo-random"]
    assert unfinished.styles["mofo-random"] == both.styles["mofo-random"]
