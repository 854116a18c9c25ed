"""Figures that show themselves in a notebook without pyplot, whose state breaks when callbacks run on other threads.

Import this inside functions: matplotlib is not loaded with the package.
"""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any

from matplotlib.figure import Figure

__all__ = ["Picture"]


class Picture(Figure):
    """A matplotlib Figure that a notebook displays by itself. Save it with ``savefig`` (.png, .svg, .pdf).

    ``alt`` says in words what it shows, for readers who cannot see it; set it where the picture is made.
    """

    alt: str = ""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """A PNG; with ``alt``, also as HTML, since that is where JupyterLab has a place for those words."""
        image = base64.b64encode(self._png()).decode()
        data, metadata = {"image/png": image, "text/plain": self.alt or repr(self)}, {}
        if self.alt:
            page = f'<img src="data:image/png;base64,{image}" alt="{escape(self.alt)}" style="max-width:100%">'
            data["text/html"], metadata["image/png"] = page, {"alt": self.alt}
        return data, metadata

    def _png(self) -> bytes:
        """256 colours are plenty for lines and letters, and a third of the bytes that a notebook then carries."""
        from PIL import Image

        drawn, packed = io.BytesIO(), io.BytesIO()
        self.savefig(drawn, format="png", dpi=100, facecolor="white")
        Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
        return packed.getvalue()
