"""Figure 4a of the paper: the time of a step of InceptionResNetV2 against the place of its cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spliteasy.device import Device
from spliteasy.link import Link
from spliteasy.reproduce.bars import Bar, plot_bars
from spliteasy.reproduce.paper_numbers import FIGURE_4A_ORDER
from spliteasy.reproduce.reproduction import Reproduction
from spliteasy.reproduce.setting import Chains, make_setting
from spliteasy.reproduce.step_times import PAPER_ARCHITECTURES, Architecture, Rig

__all__ = ["PAPER_CUTS", "fig4a"]

PAPER_CUTS: Mapping[str, str] = dict(zip(FIGURE_4A_ORDER, ("conv2d_1a", "maxpool_3a", "maxpool_5a"), strict=True))
"""The three first cuts of Figure 4a, by timm's names in InceptionResNetV2."""


def fig4a(
    *,
    network: Architecture = PAPER_ARCHITECTURES["InceptionResNetV2"],
    cuts: Mapping[str, str] = PAPER_CUTS,
    device: Device | str = "iphone-xr",
    link: Link | str = "aws",
    server: float | str = 1.0,
    batch: int = 1,
    steps: int = 2,
    codecs: Chains | None = None,
    progress: bool = True,
) -> Reproduction:
    """Overall and communication time an image for three first cuts of a double split, the second before the classifier.

    ``cuts`` are names of cuts by their words, in the paper's order from the longest to the shortest time; the other
    arguments are those of `spliteasy.reproduce.setting.make_setting`.
    """
    import pandas

    setting = make_setting(device, link, server, batch, steps, codecs)
    last = [cut for cut in network.cuts() if cut.params_after][-1].name
    rows: list[dict[str, Any]] = []
    groups = []
    with Rig("fig4a", len(cuts) * len(setting.chains), setting, progress) as rig:
        for rank, (words, name) in enumerate(cuts.items()):
            parts = rig.parts(network, (name, last))
            found = rig.measured(parts)
            row: dict[str, Any] = {"first cut": words, "name": parts.cuts[0], "rank, paper": rank + 1}
            row |= {f"MB, {label}": one.megabytes for label, one in found.items()}
            row |= {f"comm., {label}": one.communication for label, one in found.items()}
            row |= {f"overall, {label}": one.overall for label, one in found.items()}
            rows.append(row)
            groups.append((words, [Bar(label, one.overall, one.communication) for label, one in found.items()]))
    table = pandas.DataFrame(rows)
    ours = table["overall, raw"].rank(ascending=False).astype(int)
    table.insert(3, "rank, ours", ours)
    same = list(ours) == list(table["rank, paper"])
    sent = table["comm., raw"].rank(ascending=False).astype(int)
    first, final = rows[0], rows[-1]
    growth = final["overall, raw"] - final["comm., raw"] - first["overall, raw"] + first["comm., raw"]
    title = f"Figure 4a: time of {network.title} by the place of the first cut, {setting.link.name or 'a link'}"
    return Reproduction(
        "fig4a",
        f"{title}; the paper's order {'holds' if same else 'does not hold'}",
        {"times": table},
        plot_bars(title, groups),
        (
            "The paper gives no values with this figure: its text says that the time follows the size of what is sent. "
            f"Our overall times {'have' if same else 'do not have'} that order"
            + f"; our communication {'has' if list(sent) == list(table['rank, paper']) else 'has not'}. "
            + f"The last cut leaves the device {growth:.2f} s more to compute than the first, which weighs against "
            "what it saves on the wire.",
            f"The second cut is assumed: before the classifier ({last}). A convolution is cut after its batch "
            "normalization and activation.",
            *setting.sentences(),
        ),
    )
