"""
Plots of a report as SVG, without a script and without a library: lines, bands and bars on two axes.

Colours come from the page's style by class; each line also has a dash of its own and a name, so that nothing hangs on
colour alone.
"""

from __future__ import annotations

from html import escape
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..._core.plan.durations import upper_s
from .data import interval

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_WIDTH: Final = 640
_HEIGHT: Final = 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 14, 30
Point = tuple[float, float]


class Line(NamedTuple):
    """A line with its name in the legend, and the style class that it is drawn in."""

    name: str
    style: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()
    """(x, low, high) of an area around it."""


class Axis(NamedTuple):
    """What is shown from where to where, how it is labelled, and where the labels stand."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]


def figure(title: str, description: str, lines: Sequence[Line], x: Axis, y: Axis, marks: Sequence[Any] = ()) -> str:
    """One plot with a title for everybody and a description for those who cannot see it."""

    def across(value: float) -> float:
        return _LEFT + (value - x.low) / (x.high - x.low or 1.0) * (_WIDTH - _LEFT - _RIGHT)

    def down(value: float) -> float:
        part = (min(max(value, y.low), y.high) - y.low) / (y.high - y.low or 1.0)
        return _HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>",
    ]
    for value, label in y.ticks:
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{down(value):.1f}" y2="{down(value):.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{down(value) + 4:.1f}" text-anchor="end">{escape(label)}</text>'
        )
    for n, (value, label) in enumerate(x.ticks):
        anchor = "end" if n == len(x.ticks) - 1 else "middle"
        parts.append(
            f'<text class="tick" x="{across(value):.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">'
            f"{escape(label)}</text>"
        )
    for value, label in marks:
        parts.append(
            f'<line class="limit" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{down(value):.1f}" y2="{down(value):.1f}"/>'
        )
        parts.append(f'<text class="mark" x="{_LEFT + 4}" y="{down(value) - 4:.1f}">{escape(label)}</text>')
    for line in lines:
        parts += _drawn(line, across, down)
    parts.append("</svg>")
    parts.append(_legend(lines))
    parts.append("</figure>")
    return "".join(parts)


def _drawn(line: Line, across: Callable[[float], float], down: Callable[[float], float]) -> list[str]:
    found = []
    if line.band:
        upper = " ".join(f"{across(x):.1f},{down(high):.1f}" for x, _, high in line.band)
        lower = " ".join(f"{across(x):.1f},{down(low):.1f}" for x, low, _ in reversed(line.band))
        found.append(f'<polygon class="band {line.style}" points="{upper} {lower}"/>')
    if line.points:
        path = " ".join(f"{across(x):.1f},{down(value):.1f}" for x, value in line.points)
        found.append(f'<polyline class="line {line.style}" points="{path}"/>')
    return found


def _legend(lines: Sequence[Line]) -> str:
    keys = "".join(
        '<span><svg width="26" height="8" aria-hidden="true">'
        f'<line class="line {line.style}" x1="0" x2="26" y1="4" y2="4"/></svg> {escape(line.name)}</span>'
        for line in lines
    )
    return f'<div class="legend">{keys}</div>'


# -- what a report plots ---------------------------------------------------------------------------------------------


def plots(report: Mapping[str, Any]) -> list[str]:
    """All plots that *report* has data for."""
    points = report["points"]
    found = []
    if len(points) > 1:
        x = _over_time(points)
        found = [_evidence(report, points, x), _errors(report, points, x), _weight(points, x)]
    return [*found, *_latencies(report)]


def _over_time(points: Sequence[Any]) -> Axis:
    begin, end = points[0][0], points[-1][0]
    span = max(end - begin, 1.0)
    unit, name = next(
        ((size, unit) for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")) if span >= 2 * size), (1, "s")
    )
    return Axis(begin, begin + span, [(begin + span * n / 4, f"{span * n / 4 / unit:.3g} {name}") for n in range(5)])


_STYLES: Final = ("canary", "other", "third")


def _evidence(report: Mapping[str, Any], points: Sequence[Any], x: Axis) -> str:
    lines = []
    for n, version in enumerate(report["canaries"]):
        for name, style in (("rollback", _STYLES[n % 3]), ("safe_errors", "safe"), ("safe_p95", "safer")):
            found = [
                (p[0], log10(max(p[3][version]["e"][name], 1e-3)))
                for p in points
                if name in p[3].get(version, {}).get("e", {})
            ]
            if found:
                label = "worse than stable" if name == "rollback" else f"shown safe: {name.removeprefix('safe_')}"
                lines.append(Line(f"{version}: {label}", style, found))
    highest = max((value for line in lines for _, value in line.points), default=0.0)
    y = Axis(
        -3.0,
        max(3.0, ceil(highest)),
        [(power, f"{10.0**power:g}") for power in range(-3, int(max(3.0, ceil(highest))) + 1)],
    )
    alpha = 0.01 / max(1, len(report["canaries"]))
    return figure(
        "Evidence over time (e-values)",
        "Logarithmic. The line for worse than stable rolls back where it reaches the upper limit.",
        lines,
        x,
        y,
        [(log10(1 / alpha), f"rolled back at {1 / alpha:.0f}"), (log10(20.0), "safe at 20")],
    )


def _errors(report: Mapping[str, Any], points: Sequence[Any], x: Axis) -> str:
    first = report["canaries"][0]
    names = [(report["stable"], first, 0, "stable")]
    names += [(version, version, 1, _STYLES[n % 3]) for n, version in enumerate(report["canaries"])]
    lines = []
    for label, version, side, style in names:
        rates, band = [], []
        for point in points:
            seen = point[3].get(version)
            if seen is None or not seen["requests"][side]:
                continue
            n, failures = seen["requests"][side], seen["failures"][side]
            rates.append((point[0], failures / n))
            band.append((point[0], *interval(n, failures)))
        lines.append(Line(f"{label}, in its stage so far", style, rates, band))
    highest = max((min(value * 2.5, 1.0) for line in lines for _, value in line.points), default=0.0)
    top = _round_up(max(highest, 0.002))
    y = Axis(0.0, top, [(top * n / 4, f"{top * n / 4:.2%}") for n in range(5)])
    return figure(
        "Error rates with confidence sequences", "The bands hold the true rate at all times, 19 to 1.", lines, x, y
    )


def _round_up(value: float) -> float:
    power = 10.0 ** floor(log10(value))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= value)


def _weight(points: Sequence[Any], x: Axis) -> str:
    steps: list[Point] = []
    for point in points:
        if steps:
            steps.append((point[0], steps[-1][1]))
        steps.append((point[0], point[2] / 10_000))
    y = Axis(0.0, 100.0, [(value, f"{value} %") for value in (0, 25, 50, 75, 100)])
    return figure(
        "Weight over time", "Percent of identities on the canary.", [Line("on the canary", "canary", steps)], x, y
    )


def _latencies(report: Mapping[str, Any]) -> list[str]:
    """The durations of both versions in the last stage where both have some."""
    for stage in reversed(report["stages"]):
        shapes = {version: _shape(side) for version, side in stage["versions"].items()}
        shapes = {version: shape for version, shape in shapes.items() if shape}
        if len(shapes) < 2:
            continue
        styles = {report["stable"]: "stable", **{v: _STYLES[n % 3] for n, v in enumerate(report["canaries"])}}
        lines = [Line(version, styles.get(version, "other"), shape) for version, shape in shapes.items()]
        values = [x for line in lines for x, _ in line.points]
        low, high = min(values), max(values)
        top = _round_up(max(value for line in lines for _, value in line.points))
        ticks = [(low + (high - low) * n / 4, f"{10 ** (low + (high - low) * n / 4):,.3g} ms") for n in range(5)]
        y = Axis(0.0, top, [(top * n / 4, f"{top * n / 4:.1%}") for n in range(5)])
        name = f"Durations in stage {stage['stage']}"
        return [figure(name, "Share of requests by duration, logarithmic.", lines, Axis(low, high, ticks), y)]
    return []


_GROUPED: Final = 4


def _shape(side: Mapping[str, Any]) -> list[Point]:
    """(logarithm of ms, share of requests) by steps of 10 %."""
    total = sum(side["durations"].values())
    grouped: dict[int, int] = {}
    for index, n in side["durations"].items():
        grouped[int(index) // _GROUPED] = grouped.get(int(index) // _GROUPED, 0) + n
    if not total:
        return []
    first, last = min(grouped), max(grouped)
    upper = [min(index * _GROUPED + _GROUPED - 1, 449) for index in range(first - 1, last + 2)]
    return [
        (log10(upper_s(max(bound, 0)) * 1000), grouped.get(index, 0) / total)
        for index, bound in zip(range(first - 1, last + 2), upper, strict=True)
    ]
