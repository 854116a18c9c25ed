"""Figures that show themselves in a notebook without pyplot, whose state breaks when callbacks run on other threads.

Import this inside functions: matplotlib is not loaded with the package.
"""

from __future__ import annotations

import io

from matplotlib.figure import Figure

__all__ = ["Picture"]


class Picture(Figure):
    """A matplotlib Figure that IPython displays as a PNG. Save it with ``savefig`` (.png, .svg, .pdf)."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110, facecolor="white")
        return buffer.getvalue()
