"""The paper's tables and figures made again, its numbers beside ours; also `spliteasy reproduce`.

    import spliteasy as se

    se.reproduce.table2()                      # the seven shapes, from the tracer
    se.reproduce.fig4c(link="aws").save("reproduced")

Each returns a `Reproduction`, which says what differs from the paper and why.
"""

from __future__ import annotations

from spliteasy.reproduce.layer_shapes import table2
from spliteasy.reproduce.reproduction import Reproduction

__all__ = ["Reproduction", "table2"]
