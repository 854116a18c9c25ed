"""The result of a study: one row a run, one table of what is compared, and how they are shown and saved."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spliteasy.errors import TrainingError
from spliteasy.link import Link
from spliteasy.runlog import CODEC_PHASES, DEVICE_PHASES, SERVER_PHASES
from spliteasy.sweeping.grid import RAW
from spliteasy.sweeping.store import write_table

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

__all__ = ["KEYS", "Sweep"]

KEYS = ["model", "cut", "chain"]
"""What a row of the table is about."""


class Sweep:
    """The finished runs of a study. In a notebook it shows its table.

    ``rows``: one row a run (see `spliteasy.sweeping.running.compute`). ``settings``: what was asked for.
    ``missing``: how many runs were not finished, 0 unless the study was cancelled.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        settings: Mapping[str, Any],
        links: Mapping[str, Link],
        missing: int = 0,
    ) -> None:
        import pandas

        self.rows = pandas.DataFrame([dict(row) for row in rows])
        self.settings, self.links, self.missing = dict(settings), dict(links), missing

    @property
    def table(self) -> pandas.DataFrame:
        """One row for each network, cut and chain, in the order asked for.

        - ``seeds``: finished runs, ``diverged``: those of them that met NaN or infinity; the means are of the others.
        - ``validation_accuracy``, ``test_accuracy``: means over seeds, with ``_sd`` the sample deviation.
        - ``validation_difference``, ``test_difference``: mean of the accuracy less that of the uncompressed run of the
          same seed, with ``_sd``: shares, so -0.01 is one point lost.
        - ``up_bytes``, ``down_bytes``, ``bytes``: sent per sample and training step, with fitted parameters (also
          alone, per run, as ``fitted_bytes``) spread over the training; ``counted`` is ``http`` where a socket was
          counted, headers included, and ``frames`` in one process.
        - ``saving``: the bytes of the uncompressed tensors of all messages, without any header, by ``bytes``.
        - ``device_seconds``, ``server_seconds``, ``codec_seconds``: median step, median over seeds.
        - ``step_seconds.LINK``, ``epoch_seconds.LINK``: computing and codecs as measured, plus what the link needs.
        """
        import pandas

        if self.rows.empty:
            return pandas.DataFrame(columns=[*KEYS, "seeds"])
        groups = self.rows.groupby(KEYS, sort=False)
        return pandas.DataFrame([self._summary(dict(zip(KEYS, key, strict=True)), group) for key, group in groups])

    def best(self, points: float = 1.0) -> pandas.DataFrame:
        """For each network and cut, the row of `table` that sends the fewest bytes of those that lose at most so many
        points of **validation** accuracy: chosen without a look at the test data, which then report it.

        Chains with a run that diverged, and frozen devices, are not chosen.
        """
        table = self.table
        if table.empty:
            return table
        allowed = (table["validation_difference"] >= -points / 100) & (table["diverged"] == 0) & ~table["frozen"]
        kept = table[allowed]
        return kept.loc[kept.groupby(["model", "cut"], sort=False)["bytes"].idxmin()]

    def plot_frontier(self) -> Figure:
        """Test accuracy against bytes per sample, with the frontier and the spread over seeds; a panel for each network
        and cut. Raises `TrainingError` where nothing was finished."""
        from spliteasy.sweeping.figures import plot_frontier

        return plot_frontier(self._filled())

    def plot_time(self, rtt_ms: float = 20.0) -> Figure:
        """Seconds of a step against bandwidth, from measured computing and bytes, with the bandwidths below which a
        chain is worth its time; a panel for each network and cut. Raises `TrainingError` where nothing was finished."""
        from spliteasy.sweeping.figures import plot_time

        return plot_time(self._filled(), rtt_ms)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """The rows as comma-separated values, put in place in one piece."""
        write_table(self.rows, _with_suffix(path, ".csv"))

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """The rows as Parquet, put in place in one piece. Raises `TrainingError` without pyarrow."""
        write_table(self.rows, _with_suffix(path, ".parquet"))

    def _filled(self) -> Sweep:
        if self.rows.empty:
            raise TrainingError("Expected finished runs to draw, found none.")
        return self

    def _summary(self, key: dict[str, Any], group: pandas.DataFrame) -> dict[str, Any]:
        baseline = self.rows[
            (self.rows["chain"] == RAW) & (self.rows[KEYS[:2]] == [key["model"], key["cut"]]).all(axis=1)
        ]
        diverged = group["problem"] != ""
        row: dict[str, Any] = {**key, "seeds": len(group), "diverged": int(diverged.sum())}
        row["frozen"] = bool(group["frozen"].any())
        for part in ("validation", "test"):
            accuracy = group.set_index("seed")[f"{part}_accuracy"].astype(float)
            reference = baseline.set_index("seed")[f"{part}_accuracy"].astype(float)
            difference = (accuracy - reference).dropna()
            row |= {f"{part}_accuracy": accuracy.mean(), f"{part}_accuracy_sd": accuracy.std()}
            row |= {f"{part}_difference": difference.mean(), f"{part}_difference_sd": difference.std()}
        up, down = group["up_bytes_per_sample"].mean(), group["down_bytes_per_sample"].mean()
        raw = (baseline if len(baseline) else group)["raw_bytes_per_sample"].mean()
        row |= {
            "raw_bytes": raw, "up_bytes": up, "down_bytes": down, "bytes": up + down,
            "saving": raw / (up + down) if up + down else float("nan"),
            "counted": group["counted"].iloc[0], "fitted_bytes": group["fitted_bytes"].mean(),
        }  # fmt: skip
        seconds = {
            phase: float(group[f"seconds.{phase}"].median())
            for phase in (*DEVICE_PHASES, *SERVER_PHASES, *CODEC_PHASES)
        }
        for name, phases in (("device", DEVICE_PHASES), ("server", SERVER_PHASES), ("codec", CODEC_PHASES)):
            row[f"{name}_seconds"] = sum(seconds[phase] for phase in phases)
        computing = sum(seconds.values())
        steps = group["steps"].mean() / self.settings["training"]["epochs"]
        samples = group["samples"].sum() / max(group["steps"].sum(), 1)
        calls = int(group["calls_per_step"].max())
        row |= {"samples_per_step": samples, "calls_per_step": calls}
        for name, link in self.links.items():
            step = computing + link.seconds(round(up * samples), round(down * samples), calls)
            row |= {f"step_seconds.{name}": step, f"epoch_seconds.{name}": step * steps}
        return row

    def _shown(self) -> pandas.DataFrame:
        """The table as people read it: accuracy in per cent, differences in points."""
        import pandas

        table = self.table
        if table.empty:
            return table
        shown = table[KEYS].copy()
        shown["test %"] = _plus_minus(100 * table["test_accuracy"], 100 * table["test_accuracy_sd"], "{:.1f}")
        shown["points to raw"] = _plus_minus(
            100 * table["test_difference"], 100 * table["test_difference_sd"], "{:+.2f}"
        )
        shown["B up"] = table["up_bytes"].map("{:,.0f}".format)
        shown["B down"] = table["down_bytes"].map("{:,.0f}".format)
        shown["saving"] = table["saving"].map("{:,.1f}×".format)
        for name in self.links:
            shown[f"step on {name}"] = table[f"step_seconds.{name}"].map("{:.3g} s".format)
        if table["diverged"].any():
            shown["diverged"] = table["diverged"]
        return pandas.DataFrame(shown)

    def _caption(self) -> str:
        if self.rows.empty:
            return "Sweep: no finished runs"
        counted = "HTTP bytes, headers included" if self.rows["counted"].iloc[0] == "http" else "frame bytes"
        missing = f"; cancelled, {self.missing} runs missing" if self.missing else ""
        return f"Sweep of {len(self.rows)} runs on {self.rows['data'].iloc[0]}; {counted}, per sample{missing}"

    def __repr__(self) -> str:
        return f"{self._caption()}\n{self._shown().to_string(index=False)}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self._caption())}</p>{self._shown().to_html(index=False, border=0)}"


def _plus_minus(mean: Any, deviation: Any, pattern: str) -> list[str]:
    """``97.2 ± 0.4``; without the deviation where there is one seed."""
    return [
        "–" if middle != middle else pattern.format(middle) + (f" ± {spread:.2f}" if spread == spread else "")
        for middle, spread in zip(mean, deviation, strict=True)
    ]


def _with_suffix(path: str | os.PathLike[str], suffix: str) -> str:
    text = os.fspath(path)
    return text if text.endswith(suffix) else f"{text}{suffix}"
