"""Figure 4c of the paper: the same training step with the server near, in a data centre, and behind a tunnel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spliteasy.device import Device
from spliteasy.errors import ReproduceError
from spliteasy.link import Link
from spliteasy.reproduce.bars import Bar, plot_bars
from spliteasy.reproduce.paper_numbers import FIGURE_4C_ORDER
from spliteasy.reproduce.reproduction import Reproduction
from spliteasy.reproduce.setting import Chains, as_link, described_link, make_setting
from spliteasy.reproduce.step_times import PAPER_ARCHITECTURES, Architecture, Rig, times

__all__ = ["fig4c"]


def fig4c(
    *,
    network: Architecture = PAPER_ARCHITECTURES["ResNet152"],
    links: Sequence[Link | str] = FIGURE_4C_ORDER,
    device: Device | str = "iphone-xr",
    server: float | str = 1.0,
    batch: int = 1,
    steps: int = 2,
    codecs: Chains | None = None,
    progress: bool = True,
) -> Reproduction:
    """ResNet152 in a double split (after the first pooling, before the classifier), measured once for each chain and
    put on each link in virtual time.

    ``links`` are links or their names, in the paper's order from fast to slow; the other arguments are those of
    `spliteasy.reproduce.setting.make_setting`. Raises `ReproduceError` for no links or unknown ones.
    """
    import pandas

    found_links = [as_link(link) for link in links]
    if not found_links:
        raise ReproduceError("Expected links to compare, found none. Leave links out for the paper's three.")
    setting = make_setting(device, found_links[0], server, batch, steps, codecs)
    at = network.usual_cuts()
    with Rig("fig4c", len(setting.chains), setting, progress) as rig:
        parts = rig.parts(network, at)
        logs = {label: rig.run(parts, label) for label in setting.chains}
    rows: list[dict[str, Any]] = []
    groups = []
    for rank, link in enumerate(found_links):
        name = link.name or f"link {rank + 1}"
        found = times(logs, link, setting.device, setting.server)
        row: dict[str, Any] = {"link": name, "Mbit/s up": float(link.up_mbps), "ms a call": float(link.rtt_ms)}
        row |= {"rank, paper": rank + 1}
        row |= {f"comm., {label}": one.communication for label, one in found.items()}
        row |= {f"overall, {label}": one.overall for label, one in found.items()}
        rows.append(row)
        groups.append((name, [Bar(label, one.overall, one.communication) for label, one in found.items()]))
    table = pandas.DataFrame(rows)
    ours = table["overall, raw"].rank().astype(int)
    table.insert(4, "rank, ours", ours)
    same = list(ours) == list(table["rank, paper"])
    title = f"Figure 4c: time of {network.title} by the place of the server"
    return Reproduction(
        "fig4c",
        f"{title}; the paper's order {'holds' if same else 'does not hold'}",
        {"times": table},
        plot_bars(title, groups),
        (
            "The paper gives no values with this figure, only the order: the same network fastest, then AWS, then a "
            "university behind an ngrok tunnel. An order is little evidence here, since our links were given it: "
            "aws is derived from the paper's Table 1, and ngrok assumed to be aws with two legs for one.",
            "The links are " + " ".join(described_link(link) for link in found_links),
            f"The cuts are assumed: {at[0]} and {at[1]}. One run for each chain is put on all links.",
            *setting.sentences(link=False),
        ),
    )
