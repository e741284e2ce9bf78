"""Build figures for plotly.js as plain values; the page sets the colours, light or dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from recursivemix.data.printable import printable

COLOURS = 8
"""Number of method colours in the style sheet; after Okabe and Ito, safe for colour-blind readers."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
"""Markers. With colours and dashes, no two of the first 280 methods look alike."""

Figure = dict[str, Any]
"""``data`` and ``layout`` of plotly.js."""


@dataclass(frozen=True)
class Series:
    """One method's points.

    ``place`` is its index among the methods, which gives colour, dash and symbol. ``low`` and ``high`` are
    the ends of a 95 % interval around ``y`` (``x`` in `forest`), or None.
    """

    label: str
    place: int
    x: Sequence[float | str]
    y: Sequence[float]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


def lines(
    series: Sequence[Series],
    x_title: str,
    y_title: str,
    *,
    percent: bool = False,
    diagonal: float | None = None,
) -> Figure:
    """Draw one line per method, with a band if every point has an interval.

    ``percent`` limits the y axis to 0 to 100. ``diagonal`` draws a thin line from the origin to this value
    on both axes, the ideal.
    """
    traces: list[dict[str, Any]] = []
    if diagonal is not None:
        ends = [0, diagonal]
        traces.append({"x": ends, "y": ends, "mode": "lines", "hoverinfo": "skip", "meta": {"line": True}})
    for one in series:
        if one.low and None not in one.low and None not in one.high:
            x = [*one.x, *reversed(one.x)]
            band = [*one.high, *reversed(one.low)]
            traces.append(_trace(one, x, band) | {"mode": "lines", "fill": "toself", "hoverinfo": "skip"})
            traces[-1]["meta"]["band"] = True
    for one in series:
        traces.append(_trace(one, one.x, one.y) | {"mode": "lines+markers"})
    return {"data": traces, "layout": _layout(x_title, y_title, percent=percent)}


def points(series: Sequence[Series], x_title: str, y_title: str, *, percent: bool = False) -> Figure:
    """Draw one point per method, with its interval in y."""
    traces = []
    for one in series:
        trace = _trace(one, one.x, one.y) | {"mode": "markers"}
        trace["error_y"] = _reach(one.y, one.low, one.high)
        trace["marker"]["size"] = 11
        traces.append(trace)
    return {"data": traces, "layout": _layout(x_title, y_title, percent=percent)}


def forest(series: Sequence[Series], x_title: str, *, zero: bool = True) -> Figure:
    """Draw one row per method with value and interval along x; ``zero`` shows zero, with a line."""
    traces = []
    for one in series:
        values = [float(value) for value in one.x]
        trace = _trace(one, values, [_named(one.label)]) | {"mode": "markers", "orientation": "h"}
        trace["error_x"] = _reach(values, one.low, one.high)
        trace["marker"]["size"] = 11
        traces.append(trace)
    layout = _layout(x_title, "")
    layout["yaxis"] |= {"range": [len(series) - 0.5, -0.5], "type": "category"}
    layout["xaxis"] |= {"zeroline": zero, "rangemode": "tozero" if zero else "normal"}
    layout["height"] = 110 + 34 * len(series)
    return {"data": traces, "layout": layout}


def _trace(one: Series, x: Sequence[Any], y: Sequence[Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "name": escape(printable(one.label)),
        "x": list(x),
        "y": list(y),
        "line": {"dash": DASHES[one.place % len(DASHES)], "width": 2},
        "marker": {"symbol": SYMBOLS[one.place % len(SYMBOLS)], "size": 8},
        "meta": {"label": one.label, "colour": one.place % COLOURS},
    }


def _reach(
    values: Sequence[float], low: Sequence[float | None], high: Sequence[float | None]
) -> dict[str, Any]:
    """Return an error bar, invisible without an interval."""
    if not low or None in low or None in high:
        return {"visible": False}
    up = [b - v for v, b in zip(values, high, strict=True) if b is not None]
    down = [v - a for v, a in zip(values, low, strict=True) if a is not None]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 2, "width": 5}


def _layout(x_title: str, y_title: str, *, percent: bool = False) -> dict[str, Any]:
    axis = {"automargin": True, "zeroline": False}
    limits = {"minallowed": 0, "maxallowed": 100} if percent else {}
    return {
        "height": 360,
        "margin": {"l": 10, "r": 16, "t": 10, "b": 10},
        "showlegend": False,
        "hovermode": "closest",
        "dragmode": False,
        "xaxis": axis | {"title": {"text": escape(printable(x_title))}},
        "yaxis": axis | limits | {"title": {"text": escape(printable(y_title))}},
    }


def _named(label: str) -> str:
    """Shorten a label for narrow screens, and escape it: plotly interprets tags."""
    return escape(printable(label if len(label) <= 20 else f"{label[:19]}…"))
