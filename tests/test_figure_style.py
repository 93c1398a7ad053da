"""Colours that can be seen and told apart, by the colour-blind too: worked out from the colours themselves."""

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest

from rank_lab.figures.legends import legend
from rank_lab.figures.style import STYLES, Style, faint, kind_marks, label, log_axis, marks, new_plot, palette
from rank_lab.names import KINDS

Colour = npt.NDArray[np.float64]

MARK_CONTRAST, TEXT_CONTRAST = 3.0, 4.5
"""WCAG 2.2, criteria 1.4.11 and 1.4.3."""

CYCLE_DISTANCE, OTHER_DISTANCE = 20.0, 12.0
"""In CIELAB (1976): 2.3 is just noticeable. Of two colours of the cycle; of one of them and the null or the edge."""

# Machado, Oliveira & Fernandes (2009), https://doi.org/10.1109/TVCG.2009.113, severity 1.0, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
SRGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
D65 = np.array([0.95047, 1.0, 1.08883])


def linear(color: str) -> Colour:
    parts = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    light, dark = sorted((float(linear(color) @ SRGB_TO_XYZ[1]) for color in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def seen(color: str, vision: str) -> Colour:
    """CIELAB coordinates of a colour as it is seen."""
    share = SRGB_TO_XYZ @ np.clip(VISION[vision] @ linear(color), 0, 1) / D65
    f = np.where(share > 216 / 24389, np.cbrt(share), (24389 / 27 * share + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one: str, other: str, vision: str) -> float:
    return float(np.linalg.norm(seen(one, vision) - seen(other, vision)))


def test_the_measures_know_black_white_and_the_confusions_of_the_colour_blind() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert distance("#ffffff", "#000000", "normal") == pytest.approx(100, abs=0.1)
    assert distance("#d55e00", "#8a6d00", "protanopia") < 5 < distance("#d55e00", "#8a6d00", "normal")
    for matrix in VISION.values():
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)  # grey stays grey


@pytest.mark.parametrize("style", STYLES)
def test_marks_and_text_stand_out_from_their_ground(style: Style) -> None:
    colors = palette(style)
    for color in (*colors.cycle, colors.null, colors.edge):
        assert contrast(color, colors.background) >= MARK_CONTRAST, color
    assert contrast(colors.text, colors.background) >= TEXT_CONTRAST
    assert contrast(colors.text, colors.empty) >= TEXT_CONTRAST  # the signs of cells without a value


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("style", STYLES)
def test_colours_can_be_told_apart(style: Style, vision: str) -> None:
    colors = palette(style)
    for one, other in combinations(colors.cycle, 2):
        assert distance(one, other, vision) >= CYCLE_DISTANCE, (one, other)
    for one in colors.cycle:
        for other in (colors.null, colors.edge):
            assert distance(one, other, vision) >= OTHER_DISTANCE, (one, other)


@pytest.mark.parametrize("style", STYLES)
def test_many_names_are_told_apart_without_colour_repeating_alone(style: Style) -> None:
    names = [f"run {number}" for number in range(20)] + ["full", "lora", "sora", "adalora"]
    found = marks(names, style)
    assert len({(mark.color, mark.symbol, mark.dash) for mark in found.values()}) == len(names)
    alone = marks(["lora"], style)
    assert found["lora"] == alone["lora"]


@pytest.mark.parametrize("style", STYLES)
def test_a_kind_looks_alike_in_every_figure(style: Style) -> None:
    everything = kind_marks(KINDS, style)
    assert len({(mark.color, mark.symbol) for mark in everything.values()}) == len(KINDS)
    assert kind_marks(["down", "q"], style) == {kind: everything[kind] for kind in ("down", "q")}
    assert len({everything[kind].color for kind in ("q", "k", "v", "o", "up", "down")}) == 6
    assert set(kind_marks(["encoder: q", "decoder: q"], style)) == {"encoder: q", "decoder: q"}


def test_markup_in_names_is_text() -> None:
    assert label("<script>alert(1)</script>") == "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert "$" not in label("$\\int$")
    assert label("a\x1b]0;x\x07") == "a\\x1b]0;x\\x07"
    assert label("<a href='javascript:x'>&amp;") == "&lt;a href='javascript:x'&gt;&amp;amp;"


def test_a_plot_has_its_titles_but_not_in_print() -> None:
    for style in STYLES:
        layout = new_plot(style, title="What", x="layer", y="k90").layout
        assert (layout.xaxis.title.text, layout.yaxis.title.text) == ("layer", "k90")
        assert layout.title.text == (None if style == "paper" else "What")
        assert layout.paper_bgcolor == palette(style).background
        assert layout.font.color == palette(style).text


def test_small_settings() -> None:
    assert faint("#ff0080", 0.5) == "rgba(255,0,128,0.5)"
    assert "dtick" not in log_axis(float("nan"), 1.0)
    assert "dtick" not in log_axis(0.0, 1.0)
    assert log_axis(1e-20, 1.0)["dtick"] == 4
    assert legend("paper")["yanchor"] == "bottom"
