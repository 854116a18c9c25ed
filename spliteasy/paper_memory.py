"""Could the paper's phone train its six networks unsplit? Its Table 1 says NA for four of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spliteasy.memory import training_memory
from spliteasy.models import load_model

if TYPE_CHECKING:
    import pandas

__all__ = ["PAPER_NETWORKS", "paper_memory", "separating_share"]

_LEAN: dict[str, Any] = {"aux_logits": False, "init_weights": False}

PAPER_NETWORKS: dict[str, tuple[str, dict[str, Any], int, bool]] = {
    "ResNet50": ("resnet50", {}, 224, True),
    "DenseNet121": ("densenet121", {}, 224, True),
    "ResNet152": ("resnet152", {}, 224, False),
    "DenseNet201": ("densenet201", {}, 224, False),
    "InceptionV3": ("inception_v3", _LEAN, 299, False),
    "InceptionResNetV2": ("timm/inception_resnet_v2", {}, 299, False),
}
"""The networks of Table 1 as they are loaded here: name, arguments, side of the image, and whether the paper's phone
trained it unsplit (it has seconds for it, not NA). 1000 classes each."""


def paper_memory(batch: int = 2, memory_bytes: int = 3 << 30, share: float = 0.12) -> pandas.DataFrame:
    """Predicted training memory of the paper's six networks, unsplit, against a phone, beside what the paper found.

    One row a network: megabytes (10⁶ bytes) of ``parameters``, ``gradients``, saved ``activations`` and in ``total``
    (plain SGD, fp32, buffers included), ``fits`` into ``share`` of ``memory_bytes``, and ``paper_trained``.

    **What it shows, honestly.** The paper states neither its batch nor what its app could take. For one image no share
    separates the two networks that it trained from the four that it did not: ResNet50 takes 290.8 MB, InceptionV3
    289.1. At a batch of 2 a share between 11.7 and 12.0 % of 3 GB does, at 3 one between 14.4 and 15.0 %; at 4, 8 and
    16 none does, since DenseNet121's activations outgrow InceptionV3's whole. So memory agrees with the paper's NA only
    in two narrow windows, far below the half of its memory that a phone may be expected to give an app; the defaults
    sit in the first. What TensorFlow.js keeps on a phone's GPU is not what autograd keeps here, and may be a multiple.

    Raises `TrainingError` for a device without memory or an impossible share.
    """
    import pandas

    from spliteasy.device import Device

    phone = Device("phone", speed=1.0, memory_bytes=memory_bytes, share=share)
    rows = {}
    for title, (name, arguments, side, trained) in PAPER_NETWORKS.items():
        memory = training_memory(load_model(name, **arguments), (), (3, side, side), batch)
        whole = memory[0]
        rows[title] = {
            "parameters": whole.parameters / 1e6,
            "gradients": whole.gradients / 1e6,
            "activations": whole.activations / 1e6,
            "total": whole.total / 1e6,
            "fits": memory.fits(phone),
            "paper_trained": trained,
        }
    table = pandas.DataFrame.from_dict(rows, orient="index")
    table.index.name = "network"
    return table


def separating_share(table: pandas.DataFrame, memory_bytes: int = 3 << 30) -> tuple[float, float] | None:
    """The shares of ``memory_bytes`` between which exactly the networks fit that the paper's phone trained, from the
    first up to but without the second; None if there are none.

    ``table`` is one of `paper_memory`.
    """
    totals = table["total"] * 1e6 / memory_bytes
    trained = table["paper_trained"].astype(bool)
    lowest, highest = float(totals[trained].max()), float(totals[~trained].min())
    return (lowest, highest) if lowest < highest else None
