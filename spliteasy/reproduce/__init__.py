"""The paper's tables and figures made again, its numbers beside ours; also `spliteasy reproduce`.

    import spliteasy as se

    se.reproduce.table2()                      # the seven shapes, from the tracer
    se.reproduce.fig4c(steps=3).save("reproduced")

Each returns a `Reproduction`, which says what differs from the paper and why. Times are those of real training steps
with a server process, put on the paper's phone and a link in virtual time; `Architecture` names another network.
"""

from __future__ import annotations

from spliteasy.reproduce.accuracy import fig3
from spliteasy.reproduce.layer_shapes import table2
from spliteasy.reproduce.place_of_cut import fig4a
from spliteasy.reproduce.place_of_server import fig4c
from spliteasy.reproduce.reproduction import Reproduction
from spliteasy.reproduce.six_networks import table1
from spliteasy.reproduce.size_of_network import fig4b
from spliteasy.reproduce.step_times import Architecture

__all__ = ["Architecture", "Reproduction", "fig3", "fig4a", "fig4b", "fig4c", "table1", "table2"]
