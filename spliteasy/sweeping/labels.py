"""Labels beside their points without lying on each other: try places around each point, take the first that is free."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["place_labels"]

_ANGLES = np.deg2rad([20, -20, 160, -160, 75, -75, 105, -105, 0, 180, 45, -45, 135, -135])
_INK = "#222222"
_DISTANCES = (9, 18, 32, 48, 66, 88)
"""Points (1/72 inch) from a point to its label."""


def place_labels(
    axes: Any,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    obstacles: Sequence[Sequence[tuple[float, float]]] = (),
    fontsize: float = 8.5,
) -> None:
    """Write each text beside its point (in data coordinates), with a thin line to it where it stands further off.

    Call it when the limits of the axes are final. A label avoids the labels before it, all points, the lines of
    ``obstacles`` (data coordinates) and the edge of the axes; where nothing is free it takes the place that covers
    least.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patheffects import withStroke

    figure = axes.get_figure()
    figure.draw_without_rendering()  # a layout engine has now settled where the axes lie
    canvas: Any = FigureCanvasAgg(figure)
    renderer, scale = canvas.get_renderer(), figure.dpi / 72
    places = axes.transData.transform(np.asarray(points, float).reshape(-1, 2))
    covered = [_around(x, y, 4 * scale) for x, y in places]
    for line in obstacles:
        ends = axes.transData.transform(np.asarray(line, float).reshape(-1, 2))
        for start, end in pairwise(ends):
            steps = max(2, int(np.hypot(*(end - start)) / (6 * scale)))
            covered += [_around(x, y, 1.5 * scale) for x, y in np.linspace(start, end, steps)]
    inside = np.array(axes.get_window_extent(renderer).extents)
    halo = [withStroke(linewidth=2.5, foreground="white")]
    for (x, y), text, at in sorted(zip(places, texts, points, strict=True), key=lambda item: -item[0][1]):
        label = axes.annotate(text, at, (0, 0), textcoords="offset points", fontsize=fontsize, color=_INK, zorder=5)
        label.set_path_effects(halo)
        box = label.get_window_extent(renderer)
        best: tuple[float, float, float, npt.NDArray[np.float64]] | None = None
        for distance in _DISTANCES:
            for angle in _ANGLES:
                right, up = distance * np.cos(angle), distance * np.sin(angle)
                aside = np.cos(angle)
                left = x + right * scale - (box.width if aside < -0.3 else 0 if aside > 0.3 else box.width / 2)
                low = y + up * scale - box.height / 2
                found = np.array([left, low, left + box.width, low + box.height])
                cost = sum(_overlap(found, other) for other in covered)
                cost += box.width * box.height - _overlap(found, inside) + distance * scale  # near ones first
                if best is None or cost < best[0]:
                    best = cost, (left - x) / scale, (low - y) / scale, found
        assert best is not None
        _, dx, dy, found = best
        label.set_position((dx, dy))
        label.set_verticalalignment("bottom")
        covered.append(found)
        near = np.clip((x, y), found[:2], found[2:])
        if np.hypot(*(near - (x, y))) > 12 * scale:
            axes.annotate(
                "", at, tuple((near - (x, y)) / scale),
                textcoords="offset points", arrowprops={"arrowstyle": "-", "color": _INK, "lw": 0.6, "alpha": 0.6},
            )  # fmt: skip


def _around(x: float, y: float, reach: float) -> npt.NDArray[np.float64]:
    return np.array([x - reach, y - reach, x + reach, y + reach])


def _overlap(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """The area that two boxes (left, low, right, high) share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return float(width * height) if width > 0 and height > 0 else 0.0
