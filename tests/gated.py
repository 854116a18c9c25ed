"""A network whose server can be made to wait in the middle of a step."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from torch import nn

from spliteasy.splitting import Split

__all__ = ["ALLOWED", "VARIABLE", "Gate", "gated_split"]

VARIABLE = "SPLITEASY_TEST_GATE"
ALLOWED = "gated:network"


class Gate:
    """A file in ``folder``: while it is there, a forward of the server that was started with `environment` waits."""

    def __init__(self, folder: Path) -> None:
        self._file, self._reached = folder / "gate", folder / "gate.reached"
        self.environment = {VARIABLE: str(self._file)}

    def close(self) -> None:
        self._reached.unlink(missing_ok=True)
        self._file.touch()

    def open(self) -> None:
        self._file.unlink(missing_ok=True)

    def reached(self) -> None:
        """Return when a forward waits."""
        end = time.monotonic() + 30
        while not self._reached.exists():
            assert time.monotonic() < end, "no forward came to the gate"
            time.sleep(0.005)


class Gated(nn.Module):
    """Waits at the gate, in training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and (name := os.environ.get(VARIABLE)):
            gate = Path(name)
            if gate.exists():
                gate.with_suffix(".reached").touch()
            while gate.exists():
                time.sleep(0.005)
        return x * 1


def network() -> nn.Module:
    """The gate is in segment B when it is cut around the layer `1`."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), Gated(), nn.Linear(16, 16), nn.Linear(16, 10))


def gated_split(at: tuple[str, ...] = ("1", "3"), seed: int = 0) -> Split:
    """Split so that a server that was started with ``--allow gated:network`` can take B."""
    import spliteasy as se

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return se.split(se.load_model(ALLOWED), at=at, input_shape=(1, 8, 8))
