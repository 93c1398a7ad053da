"""How all figures look: colours that the colour-blind can tell apart, light, dark and on paper."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import plotly.graph_objects as go
from plotly.colors import get_colorscale

from rank_lab.names import KINDS
from rank_lab.plain_text import plain

__all__ = [
    "STYLES",
    "Mark",
    "Palette",
    "Style",
    "axis",
    "beside_names",
    "faint",
    "fixed_margins",
    "kind_marks",
    "label",
    "log_axis",
    "marks",
    "merged",
    "new_plot",
    "palette",
]

Style: TypeAlias = Literal["light", "dark", "paper"]
STYLES: tuple[Style, ...] = ("light", "dark", "paper")
"""On screen, on a dark screen, and in print (no title in the graphic, smaller text)."""


@dataclass(frozen=True)
class Palette:
    """Colours of one style; every mark has a contrast of at least 3 to the background, text one of at least 4.5.

    Parameters
    ----------
    background, text, grid
        Of the plot.
    null
        Of what noise would show.
    edge
        Of the edge of the noise.
    empty
        Of a cell that has no value.
    cycle
        Of runs or methods: after Okabe & Ito (https://jfly.uni-koeln.de/color/), moved until contrast and the distance
        of each two (20 or more in CIELAB, for deuteranopes and protanopes too) were there.
    scale
        Continuous colours for values: Cividis, even in lightness and the same to the colour-blind; on a dark screen
        without its darkest end, which would look like a cell that is not there.
    """

    background: str
    text: str
    grid: str
    null: str
    edge: str
    empty: str
    cycle: tuple[str, ...]
    scale: tuple[tuple[float, str], ...]


_CIVIDIS = tuple((float(at), str(color)) for at, color in get_colorscale("Cividis"))
_CIVIDIS_LIT = tuple((1.5 * at - 0.5, color) for at, color in _CIVIDIS[3:])
_LIGHT = Palette(
    "#ffffff", "#1a1a1a", "#e3e3e3", "#6f6f6f", "#c2002f", "#d9d9d9",
    ("#0072b2", "#c77002", "#009d5f", "#b57fa3", "#5c4803", "#000000"), _CIVIDIS,
)  # fmt: skip
_DARK = Palette(
    "#0e1117", "#fafafa", "#333842", "#a6a6a6", "#ff5d73", "#262b36",
    ("#56b4e9", "#f88247", "#31d99a", "#b873a2", "#ebf16a", "#ffffff"), _CIVIDIS_LIT,
)  # fmt: skip

_FIXED = {"full": 0, "lora": 1, "sora": 2, "adalora": 3}
_LONG = 40  # characters, of a name beside an axis
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "triangle-down", "pentagon")
_DASHES = ("solid", "dash", "dot", "dashdot")
_COMMON_KINDS = ("q", "k", "v", "o", "up", "down", "gate", "embed", "head")  # those that are drawn together first
_KIND_ORDER = (*_COMMON_KINDS, *(kind for kind in KINDS if kind not in _COMMON_KINDS))


@dataclass(frozen=True)
class Mark:
    """How one run or method is drawn, in colour and without.

    Parameters
    ----------
    color, symbol, dash
        In plotly's terms.
    """

    color: str
    symbol: str
    dash: str


def palette(style: Style) -> Palette:
    """Colours of a style."""
    return _DARK if style == "dark" else _LIGHT


def marks(names: Sequence[str], style: Style) -> dict[str, Mark]:
    """A mark for each run or method: full, LoRA, SoRA and AdaLoRA look alike in all figures.

    Parameters
    ----------
    names
        Distinct. Names are told apart by symbol and dash where there are more than colours.
    style
        Of the plot.

    Examples
    --------
    >>> found = marks(["full", "lora", "my run"], "light")
    >>> found["full"].color, len({(mark.color, mark.symbol) for mark in found.values()})
    ('#0072b2', 3)
    """
    colors = palette(style).cycle
    taken = {_FIXED[name] for name in names if name in _FIXED}
    free = [index for index in range(len(names) + len(colors)) if index not in taken]
    places = {name: _FIXED[name] if name in _FIXED else free.pop(0) for name in names}
    return {
        name: Mark(
            colors[place % len(colors)],
            _SYMBOLS[place % len(_SYMBOLS)],
            _DASHES[place // len(colors) % len(_DASHES)],
        )
        for name, place in places.items()
    }


def kind_marks(lines: Sequence[str], style: Style) -> dict[str, Mark]:
    """A mark for each line of a plot by kind of module: a kind looks alike in all figures.

    Parameters
    ----------
    lines
        Kinds; if one of them is none (a kind with its stack), all of them get the marks of names.
    style
        Of the plot.

    Examples
    --------
    >>> kind_marks(["q"], "light") == {"q": kind_marks(["q", "up"], "light")["q"]}
    True
    """
    if not set(lines) <= set(KINDS):
        return marks(lines, style)
    found = marks(_KIND_ORDER, style)
    return {line: found[line] for line in lines}


def faint(color: str, opacity: float) -> str:
    """A colour that lets the ground through.

    Parameters
    ----------
    color
        ``#rrggbb``.
    opacity
        In [0, 1].

    Examples
    --------
    >>> faint("#0072b2", 0.25)
    'rgba(0,114,178,0.25)'
    """
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def label(name: str) -> str:
    r"""A name from a file as text in a plot: plotly takes tags and dollar signs for markup.

    Examples
    --------
    >>> label("<b>q</b> $x$"), label("a\x1b[2J")
    ('&lt;b&gt;q&lt;/b&gt; &#36;x&#36;', 'a\\x1b[2J')
    """
    return html.escape(plain(str(name)), quote=False).replace("$", "&#36;")


def log_axis(smallest: float, largest: float) -> dict[str, Any]:
    """Settings of a logarithmic axis on which labels have room: whole powers of ten, 2 and 5 too below two decades.

    Parameters
    ----------
    smallest, largest
        Positive numbers that are shown; NaN where there are none.

    Examples
    --------
    >>> log_axis(1e-4, 1.0)["dtick"], log_axis(2.0, 9.0), log_axis(1e-12, 1.0)["dtick"]
    (1, {'type': 'log', 'exponentformat': 'power', 'dtick': 'D2'}, 3)
    """
    powers = {"type": "log", "exponentformat": "power"}
    if not 0 < smallest < largest < math.inf:
        return powers
    decades = math.log10(largest / smallest)
    return powers | {"dtick": math.ceil(decades / 5) if decades >= 2 else "D2"}


def axis(style: Style, title: str, **settings: Any) -> dict[str, Any]:
    """An axis of a style: :func:`new_plot` has one of each, panels beside the first need more.

    Parameters
    ----------
    style
        Of the plot.
    title
        Symbol and unit.
    settings
        Further settings of plotly's axis.
    """
    colors = palette(style)
    return {
        "title": {"text": title, "standoff": 6}, "automargin": True,
        "gridcolor": colors.grid, "linecolor": colors.text, "tickcolor": colors.text,
        "showline": True, "ticks": "outside", "zeroline": False, "mirror": False, "exponentformat": "SI",
        "minexponent": 6, "separatethousands": True,  # 50,000 and 2M; a logarithmic axis has powers of ten
    } | settings  # fmt: skip


def beside_names(names: Iterable[str], style: Style) -> dict[str, Any]:
    """Layout of a plot whose vertical axis has names: on screen a margin that fits them.

    Parameters
    ----------
    names
        As they are shown.
    style
        Of the plot. In print, and where a name is long, plotly measures them: it then draws the plot twice.

    Examples
    --------
    >>> beside_names(["q", "gate_up"], "light")["margin"], beside_names(["q"], "paper")
    ({'l': 84}, {})
    """
    longest = max(map(len, names), default=0)
    if style == "paper" or longest > _LONG:
        return {}
    return fixed_margins(style) | {"margin": {"l": 28 + 8 * longest}}


def fixed_margins(style: Style, *axes: str) -> dict[str, Any]:
    """Layout of a plot whose axes have numbers, for which the margins of :func:`new_plot` leave room on screen.

    Parameters
    ----------
    style
        Of the plot.
    axes
        Names of further axes than the first two.
    """
    return {} if style == "paper" else {name: {"automargin": False} for name in ("xaxis", "yaxis", *axes)}


def new_plot(style: Style, *, title: str, x: str, y: str, **layout: Any) -> go.Figure:
    """An empty plot of a style.

    Parameters
    ----------
    style
        On paper the title is left to the caption.
    title, x, y
        Axes carry symbol and unit; names from files go through :func:`label` first.
    layout
        Further settings of plotly's layout.
    """
    colors = palette(style)
    paper = style == "paper"
    font = {"family": "Times New Roman, Times, serif", "size": 11} if paper else {"family": "sans-serif", "size": 13}
    heading = {"text": title, "x": 0.0, "xref": "paper", "xanchor": "left", "font": {"size": 15}}
    base = {
        "template": "none", "paper_bgcolor": colors.background, "plot_bgcolor": colors.background,
        "font": font | {"color": colors.text}, "title": None if paper else heading,
        "margin": {"l": 40, "r": 8, "t": 8, "b": 42} if paper else {"l": 60, "r": 15, "t": 48, "b": 50},
        "colorway": list(colors.cycle), "legend": {"bgcolor": "rgba(0,0,0,0)"},
        "hoverlabel": {"bgcolor": colors.background, "font": {"color": colors.text}},
        "xaxis": axis(style, x), "yaxis": axis(style, y),
    }  # fmt: skip
    return go.Figure(layout=merged(base, layout))  # at once: each update of a layout takes plotly ten times as long


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some of them changed, those within others too."""
    both = {name: merged(base[name], value) for name, value in changes.items() if _nested(base.get(name), value)}
    return {**base, **changes, **both}


def _nested(one: object, other: object) -> bool:
    return isinstance(one, Mapping) and isinstance(other, Mapping)
