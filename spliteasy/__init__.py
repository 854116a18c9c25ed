"""Split learning: cut any PyTorch network, train it across a device and a server, and see what crosses the wire.

    import spliteasy as se

    model = se.load_model("resnet50", num_classes=10)
    cuts = se.find_cuts(model, input_shape=(3, 224, 224), batch=32)
    split = se.split(model, at=("maxpool", "avgpool"), input_shape=(3, 224, 224))
    with se.LocalServer() as server, se.Trainer(split, server=server.url, codecs="fp16 | zstd(1)") as trainer:
        trainer.fit(loader)

After *SplitEasy: A Practical Approach for Training ML models on Mobile Devices* (Palanisamy et al., HotMobile '21,
arXiv 2011.04232).
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

from spliteasy import data, errors
from spliteasy.calibrating import calibrate
from spliteasy.codecs import Chain, codec, list_codecs
from spliteasy.crossing import crossing_tensors
from spliteasy.cuts import Cut, Cuts, find_cuts
from spliteasy.device import DEVICES, Device
from spliteasy.gradients import gradient_cosine
from spliteasy.link import LINKS, Link
from spliteasy.measuring import Measurement, measure
from spliteasy.memory import TrainingMemory, training_memory
from spliteasy.models import list_models, load_model
from spliteasy.planning import Constraints, Plan, plan
from spliteasy.profiling import Profile, profile
from spliteasy.runlog import Evaluation, RunLog, StepRecord
from spliteasy.seeding import step_seed
from spliteasy.server.process import LocalServer
from spliteasy.splitting import Split, split
from spliteasy.sweeping import Sweep, sweep
from spliteasy.trainer import Trainer
from spliteasy.wire import Bytes, Codecs

__all__ = [
    "DEVICES",
    "LINKS",
    "Bytes",
    "Chain",
    "Codecs",
    "Constraints",
    "Cut",
    "Cuts",
    "Device",
    "Evaluation",
    "Link",
    "LocalServer",
    "Measurement",
    "Plan",
    "Profile",
    "RunLog",
    "Split",
    "StepRecord",
    "Sweep",
    "Trainer",
    "TrainingMemory",
    "__version__",
    "calibrate",
    "codec",
    "crossing_tensors",
    "data",
    "errors",
    "explore",
    "find_cuts",
    "gradient_cosine",
    "list_codecs",
    "list_models",
    "load_model",
    "measure",
    "plan",
    "profile",
    "reproduce",
    "split",
    "step_seed",
    "sweep",
    "teach",
    "training_memory",
]


def __getattr__(name: str) -> Any:
    """`spliteasy.teach` and `spliteasy.reproduce`, loaded when they are first used."""
    if name in ("teach", "reproduce"):
        from importlib import import_module

        return import_module(f"spliteasy.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def explore(*args: Any, **kwargs: Any) -> Any:
    """The notebook explorer of `spliteasy.explorer.explore`, loaded when it is called."""
    from spliteasy.explorer import explore as show

    return show(*args, **kwargs)
