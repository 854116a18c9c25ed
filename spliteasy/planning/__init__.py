"""Where to cut, what to send and how, for a device, a link and a server."""

from __future__ import annotations

from spliteasy.planning.chains import ChainCost
from spliteasy.planning.computer import Computer, Wire
from spliteasy.planning.constraints import Constraints
from spliteasy.planning.predicting import predict_step
from spliteasy.planning.result import Choice, Plan
from spliteasy.planning.search import plan

__all__ = ["ChainCost", "Choice", "Computer", "Constraints", "Plan", "Wire", "plan", "predict_step"]
