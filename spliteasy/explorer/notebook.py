"""The explorer as a notebook holds it: what a cell shows, what is closed when the cell runs again."""

from __future__ import annotations

import base64
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spliteasy.explorer.best_cut import BestCut, find_best_cut
from spliteasy.explorer.figure import draw, png, static_html
from spliteasy.explorer.saving import save_picture
from spliteasy.explorer.snippet import snippet
from spliteasy.explorer.state import ExplorerState
from spliteasy.explorer.training import Training
from spliteasy.explorer.trial import Trial, run_trial
from spliteasy.explorer.wording import size
from spliteasy.runlog import RunLog

if TYPE_CHECKING:
    from spliteasy.explorer.view import View
    from spliteasy.pictures import Picture

__all__ = ["Explorer", "explorer_of_this_cell"]


class Explorer:
    """A network, where it is cut, and what that means; shown by a notebook as controls, picture and tables.

    ``state`` holds what is chosen: ``explorer.state.update(batch=8)`` moves the view too.
    """

    def __init__(self, state: ExplorerState) -> None:
        self.state = state
        self._view: View | None = None

    def save(self, folder: str | Path = ".") -> tuple[Path, Path]:
        """Write the picture into ``folder`` as SVG and PNG; their paths. Raises `SplitEasyError`."""
        return save_picture(self.state.skyline, self.state.model, folder)

    def train(self) -> RunLog:
        """Train a few steps now and wait; the button does the same on a thread of its own."""
        return Training(self.state.training_plan).run()

    def best_cut(self) -> BestCut:
        """Find the best cut for the chosen link and device now, wait for it, and move there, chains too; the button
        does the same on a thread of its own. Raises what `spliteasy.profile` and `spliteasy.plan` raise."""
        found = find_best_cut(self.state.question)
        self.state.remember_best(found)
        self.state.update(at=found.best.cuts, codecs=found.best.codecs)
        return found

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
        """Try the chains at the chosen cuts now and wait for it; the button does the same on a thread of its own."""
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


@dataclass
class _Shown:
    """What a cell shows: the run that made it, its explorers with what was asked for, and those of the run before whose
    states were not taken over yet."""

    run: str
    explorers: list[tuple[Hashable, Explorer]]
    earlier: list[tuple[Hashable, Explorer]]


_opened: dict[str, _Shown] = {}


def explorer_of_this_cell(asked: Hashable, state: Callable[[ExplorerState | None], ExplorerState]) -> Explorer:
    """An explorer for the cell that runs. Whatever the cell showed when it ran before is closed; ``state`` makes the
    new one's state, given the earlier one's where the same was ``asked`` for then."""
    from IPython import get_ipython

    parent: dict[str, Any] = getattr(get_ipython(), "get_parent", dict)()
    cell = parent.get("metadata", {}).get("cellId")
    if cell is None:
        return Explorer(state(None))
    run = parent.get("header", {}).get("msg_id", "")
    shown = _opened.get(cell)
    if shown is None or shown.run != run:
        earlier = shown.explorers if shown is not None else []
        for _, old in earlier:
            old.close()
        shown = _opened[cell] = _Shown(run, [], earlier)
    kept = next((pair for pair in shown.earlier if pair[0] == asked), None)
    if kept is not None:
        shown.earlier.remove(kept)
    explorer = Explorer(state(kept[1].state if kept is not None else None))
    shown.explorers.append((asked, explorer))
    return explorer
