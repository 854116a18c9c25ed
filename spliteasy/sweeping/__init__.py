"""A study instead of a run: networks × cuts × chains × seeds, one table, resumable, here or on a Ray cluster.

In the order the data flows: `datasets` (data by name), `grid` (what is to be run, checked before anything runs),
`running` (one run, one row), `engines` (where runs are computed), `store` (finished rows on disk), `result` (rows and
table), `figures` and `labels` (pictures), `study` (`sweep` itself).
"""

from spliteasy.sweeping.figures import plot_rate_error
from spliteasy.sweeping.grid import Grid, Run, read_codecs
from spliteasy.sweeping.result import Sweep
from spliteasy.sweeping.study import sweep

__all__ = ["Grid", "Run", "Sweep", "plot_rate_error", "read_codecs", "sweep"]
