"""Figure 4b of the paper: three sizes of network on small and on large images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from spliteasy.device import Device
from spliteasy.link import Link
from spliteasy.reproduce.bars import Bar, plot_bars
from spliteasy.reproduce.paper_numbers import FIGURE_4B_SPREAD
from spliteasy.reproduce.reproduction import Reproduction
from spliteasy.reproduce.setting import Chains, make_setting
from spliteasy.reproduce.step_times import PAPER_ARCHITECTURES, Architecture, Rig

__all__ = ["INPUTS", "fig4b"]

INPUTS: Mapping[str, tuple[int, int]] = {"CIFAR-100": (32, 100), "ImageNet": (224, 1000)}
"""Side of the image and classes of the two data sets of Figure 4b."""

_THREE = tuple(PAPER_ARCHITECTURES[title] for title in ("DenseNet121", "ResNet50", "ResNet152"))


def fig4b(
    *,
    networks: Sequence[Architecture] = _THREE,
    inputs: Mapping[str, tuple[int, int]] = INPUTS,
    device: Device | str = "iphone-xr",
    link: Link | str = "aws",
    server: float | str = 1.0,
    batch: int = 2,
    steps: int = 2,
    codecs: Chains | None = None,
    progress: bool = True,
) -> Reproduction:
    """Overall time an image of three networks, each with about three times the parameters of the one before, in a
    double split after the first pooling and before the classifier.

    ``inputs`` are side and classes by name; the other arguments are those of
    `spliteasy.reproduce.setting.make_setting`. The batch is 2, since at 32 × 32 these networks end in one position, and
    batch normalization cannot train on one value.
    """
    import pandas

    setting = make_setting(device, link, server, batch, steps, codecs)
    rows: list[dict[str, Any]] = []
    groups = []
    with Rig("fig4b", len(networks) * len(inputs) * len(setting.chains), setting, progress) as rig:
        for network in networks:
            for where, (side, classes) in inputs.items():
                sized = replace(network, side=side, arguments={**network.arguments, "num_classes": classes})
                parts = rig.parts(sized, sized.usual_cuts())
                params = sum(parameter.numel() for parameter in parts.model.parameters()) / 1e6
                found = rig.measured(parts)
                row: dict[str, Any] = {"network": network.title, "input": f"{where} {side}²", "M parameters": params}
                row |= {f"MB, {label}": one.megabytes for label, one in found.items()}
                row |= {f"comm., {label}": one.communication for label, one in found.items()}
                row |= {f"overall, {label}": one.overall for label, one in found.items()}
                rows.append(row)
                bars = [Bar(label, one.overall, one.communication) for label, one in found.items()]
                groups.append((f"{network.title}, {side}²", bars))
    table = pandas.DataFrame(rows)
    spread = float(table["overall, raw"].max() - table["overall, raw"].min())
    computing = table["overall, raw"] - table["comm., raw"]
    title = f"Figure 4b: time by size of network and image, {setting.link.name or 'a link'}"
    return Reproduction(
        "fig4b",
        f"{title}; between least and most: {spread:.2f} s, the paper about {FIGURE_4B_SPREAD} s",
        {"times": table},
        plot_bars(title, groups),
        (
            f"The paper's text gives one number with this figure, about {FIGURE_4B_SPREAD} s between least and most; "
            f"ours is {spread:.2f} s, of which computing alone differs by {computing.max() - computing.min():.2f} s.",
            "Which three networks the paper took is not repeated in our notes, only that their parameters differ "
            f"three-fold; ours are {', '.join(network.title for network in networks)}.",
            f"Seconds are of a batch of {batch}, divided by {batch}: at 32 × 32 these networks end in one position, "
            "and batch normalization cannot train on one value. A batch shares its calls, so each image waits less "
            "than in Table 1. The pictures are photographs of that size, not CIFAR or ImageNet, which changes no time.",
            *setting.sentences(),
        ),
    )
