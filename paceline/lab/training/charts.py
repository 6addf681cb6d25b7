"""Charts of a comparison: loss over tokens, bytes and virtual time, and figures over what was swept.

It refuses to know tables and pages. Invariant: a line is the mean over a row's seeds; a point that one of them lacks is left
out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
from plotly.colors import qualitative

from paceline.base.errors import ConfigError
from paceline.lab.training.compare import Group, RowResult
from paceline.lab.training.config import parse_bandwidth
from paceline.lab.training.record import PointRecord
from paceline.lab.training.rows import show_value

_COLOURS = qualitative.Dark24
_WIDTH = {"l": 60, "r": 20, "t": 50, "b": 50}
_TOP_SHARE = 0.15
"""The loss axis leaves out what lies above this share of the evaluations, where all methods still fall steeply."""


def draw_group(group: Group) -> list[go.Figure]:
    """The charts of a group."""
    if group.baseline.row.measures == "utilisation":
        return _draw_sweeps(group)
    figures = [
        _draw_losses(group, "Loss over tokens", "tokens of all trainers", lambda point: point.tokens),
        _draw_losses(group, "Loss over virtual time", "virtual seconds", lambda point: point.seconds),
    ]
    if any(record.sent for result in group.rows for record in result.records):
        over_bytes = _draw_losses(
            group, "Loss over bytes", "bytes sent by all trainers", lambda point: point.bytes_sent
        )
        over_bytes.update_xaxes(type="log", exponentformat="SI")
        figures.insert(1, over_bytes)
    return figures + _draw_sweeps(group)


def _draw_losses(group: Group, title: str, axis: str, get_place: Callable[[PointRecord], float]) -> go.Figure:
    figure = go.Figure()
    for number, result in enumerate(group.rows):
        places, losses = _average_points(result, get_place)
        # A method that sends nothing has no place on an axis of powers.
        shown = [(place, loss) for place, loss in zip(places, losses, strict=True) if place > 0]
        figure.add_scatter(
            x=[place for place, _ in shown],
            y=[loss for _, loss in shown],
            name=result.row.label,
            mode="lines+markers",
            marker={"size": 4},
            line={"color": _COLOURS[number % len(_COLOURS)]},
            hovertemplate="%{y:.4f} at %{x:.4s}<extra>%{fullData.name}</extra>",
        )
    _style(figure, title, axis, "loss (nats a token)")
    # A legend that does not fit is cut off behind a bar of its own.
    figure.update_layout(height=max(440, 130 + 19 * len(group.rows)))
    figure.update_yaxes(range=_choose_range(group))
    return figure


def _average_points(result: RowResult, get_place: Callable[[PointRecord], float]) -> tuple[list[float], list[float]]:
    places, losses = [], []
    for points in zip(*(record.points for record in result.records), strict=False):
        known = [point.loss for point in points if point.loss is not None]
        if len(known) == len(points):
            places.append(fmean(get_place(point) for point in points))
            losses.append(fmean(known))
    return places, losses


def _choose_range(group: Group) -> list[float] | None:
    losses = sorted(
        point.loss
        for result in group.rows
        for record in result.records
        for point in record.points
        if point.loss is not None
    )
    if len(losses) < 20:
        return None
    top = losses[int(len(losses) * (1 - _TOP_SHARE))]
    margin = 0.05 * (top - losses[0])
    return [losses[0] - margin, top + margin]


def _draw_sweeps(group: Group) -> list[go.Figure]:
    """For each swept setting: the last loss and the utilisation over its values, a line for each file and other value."""
    names = list(dict.fromkeys(name for result in group.rows for name in result.row.swept))
    numeric = [name for name in names if all(_as_number(value) is not None for value in _list_values(group, name))]
    figures = []
    for name in numeric:
        if group.baseline.row.measures == "loss":
            figures.append(_draw_sweep(group, name, "Last loss", "loss (nats a token)", lambda result: result.loss))
        shares = {result.compute_mean("utilisation") for result in group.rows}
        if len(shares) > 1:
            figures.append(
                _draw_sweep(
                    group,
                    name,
                    "Compute utilisation",
                    "share of time in inner steps",
                    lambda result: result.compute_mean("utilisation"),
                )
            )
            _add_published(figures[-1], group, name)
    return figures


def _draw_sweep(group: Group, name: str, title: str, unit: str, get: Callable[[RowResult], float | None]) -> go.Figure:
    short = name.rpartition(".")[2].replace("_", " ")
    figure = go.Figure()
    for number, (label, places, values) in enumerate(_list_lines(group, name, get)):
        figure.add_scatter(
            x=places,
            y=values,
            name=label,
            mode="lines+markers",
            line={"color": _COLOURS[number % len(_COLOURS)]},
        )
    _style(figure, f"{title} over {short}", short, unit)
    if _spans_powers(group, name):
        figure.update_xaxes(type="log", exponentformat="SI")
    return figure


def _add_published(figure: go.Figure, group: Group, name: str) -> None:
    known = [
        (place, result.row.published)
        for result in group.rows
        if result.row.published is not None and (place := _as_number(result.row.swept.get(name))) is not None
    ]
    if known:
        figure.add_scatter(
            x=[place for place, _ in sorted(known)],
            y=[value for _, value in sorted(known)],
            name="published measurement",
            mode="lines+markers",
            line={"color": "black", "dash": "dash"},
        )


def _list_lines(
    group: Group, name: str, get: Callable[[RowResult], float | None]
) -> list[tuple[str, list[float], list[float]]]:
    lines: dict[str, list[tuple[float, float]]] = {}
    for result in group.rows:
        place, value = _as_number(result.row.swept.get(name)), get(result)
        others = [show_value(other) for key, other in result.row.swept.items() if key != name]
        if place is not None and value is not None:
            lines.setdefault(", ".join([result.row.family, *others]), []).append((place, value))
    return [
        (label, [place for place, _ in sorted(found)], [value for _, value in sorted(found)])
        for label, found in lines.items()
    ]


def _list_values(group: Group, name: str) -> list[Any]:
    return [result.row.swept[name] for result in group.rows if name in result.row.swept]


def _spans_powers(group: Group, name: str) -> bool:
    numbers = [number for value in _list_values(group, name) if (number := _as_number(value)) is not None]
    return len(numbers) > 1 and min(numbers) > 0 and max(numbers) / min(numbers) >= 10


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return parse_bandwidth(value) if isinstance(value, str) else float(value)
    except ConfigError:
        return None


def _style(figure: go.Figure, title: str, x_title: str, y_title: str) -> None:
    figure.update_layout(
        title=title,
        height=440,
        margin=_WIDTH,
        template="simple_white",
        xaxis={"title": x_title},
        yaxis={"title": y_title},
        showlegend=True,
        legend={"font": {"size": 11}},
        hoverlabel={"namelength": -1},
    )


def show_figures(figures: Sequence[go.Figure]) -> str:
    """The charts as HTML that needs plotly's library on the page, and nothing from a network."""
    return "\n".join(
        figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False}) for figure in figures
    )
