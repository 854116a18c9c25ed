"""The explorer as a notebook holds it: what a cell shows, what is closed when the cell runs again."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from spliteasy.explorer.figure import draw, png, static_html
from spliteasy.explorer.snippet import snippet
from spliteasy.explorer.state import ExplorerState
from spliteasy.explorer.trial import Trial, run_trial
from spliteasy.explorer.wording import size

if TYPE_CHECKING:
    from spliteasy.explorer.view import View
    from spliteasy.pictures import Picture

__all__ = ["Explorer", "close_earlier_views"]

_opened: dict[str, tuple[str, list[Explorer]]] = {}


class Explorer:
    """A network, where it is cut, and what that means; shown by a notebook as controls, picture and tables.

    ``state`` holds what is chosen: ``explorer.state.update(batch=8)`` moves the view too.
    """

    def __init__(self, state: ExplorerState) -> None:
        self.state = state
        self._view: View | None = None

    @property
    def widget(self) -> Any:
        """The ipywidgets box, made when first asked for."""
        if self._view is None:
            from spliteasy.explorer.view import View

            self._view = View(self.state)
        return self._view.box

    def figure(self) -> Picture:
        """The picture as a matplotlib Figure, for papers and for readers without a kernel."""
        return draw(self.state.skyline)

    def snippet(self) -> str:
        """Code that computes the same numbers again."""
        return snippet(self.state.plan, self.state.facts)

    def measure(self) -> Trial:
        """Try the chain at the chosen cuts now and wait for it; the button does the same on a thread of its own."""
        trial = run_trial(self.state.plan)
        self.state.remember(trial)
        if self._view is not None:
            self._view.show_trials()
        return trial

    def close(self) -> None:
        """Stop what is being measured and take the widgets away, here and in the browser."""
        if self._view is not None:
            self._view.close()
            self._view = None

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """The widgets, and for readers without a kernel a picture and tables."""
        image = png(self.state.skyline)
        bundle: dict[str, Any] = dict(self.widget._repr_mimebundle_())
        bundle["text/plain"] = repr(self)
        bundle["text/html"] = static_html(self.state.skyline, self.state.facts, image)
        bundle["image/png"] = base64.b64encode(image).decode()
        return bundle

    def __repr__(self) -> str:
        cuts = " and ".join(f"{cut.name} ({size(cut.nbytes)})" for cut in self.state.chosen)
        return f"Explorer: {self.state.model}, {self.state.mode} split after {cuts}, batch {self.state.batch}"


def close_earlier_views(explorer: Explorer) -> None:
    """Close what the running cell showed when it ran before, and note ``explorer`` as shown by it."""
    from IPython import get_ipython

    parent: dict[str, Any] = getattr(get_ipython(), "get_parent", dict)()
    cell = parent.get("metadata", {}).get("cellId")
    if cell is None:
        return
    run = parent.get("header", {}).get("msg_id", "")
    earlier, explorers = _opened.get(cell, ("", []))
    if earlier != run:
        for old in explorers:
            old.close()
        explorers = []
    _opened[cell] = run, [*explorers, explorer]
