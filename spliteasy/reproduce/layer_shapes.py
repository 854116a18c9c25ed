"""Table 2 of the paper: what the first seven layers of InceptionResNetV2 put out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spliteasy.cuts import find_cuts
from spliteasy.models import load_model
from spliteasy.reproduce.bars import COLORS
from spliteasy.reproduce.paper_numbers import TABLE_2
from spliteasy.reproduce.reproduction import Reproduction

if TYPE_CHECKING:
    from spliteasy.pictures import Picture

__all__ = ["table2"]


def table2(progress: bool = True) -> Reproduction:
    """The seven shapes of Table 2, from the tracer: timm's InceptionResNetV2, at 299 × 299. Nothing is trained.

    Columns: ``layer``, ``kind``, ``name`` (timm's), ``paper`` and ``ours`` as height·width·filters, ``equal``, and
    ``MB`` of one image's fp32 there. ``progress`` shows a bar.
    """
    import pandas
    from tqdm.auto import tqdm

    rows = []
    with tqdm(total=1 + len(TABLE_2), desc="table2", unit="layer", disable=not progress) as bar:
        cuts = find_cuts(load_model("timm/inception_resnet_v2"), (3, 299, 299))
        bar.update()
        for number, (kind, name, expected) in enumerate(TABLE_2, start=1):
            found = next(cut for cut in cuts if cut.name in (name, f"{name}.conv"))
            _, filters, height, width = found.tensors[0].shape
            ours = (height, width, filters)
            rows.append(
                {
                    "layer": number, "kind": kind, "name": name, "paper": _dotted(expected), "ours": _dotted(ours),
                    "equal": ours == expected, "MB": found.nbytes / 1e6,
                }
            )  # fmt: skip
            bar.update()
    table = pandas.DataFrame(rows)
    equal = int(table["equal"].sum())
    return Reproduction(
        "table2",
        f"Table 2: the first seven layers of InceptionResNetV2 at 299 × 299, {equal} of {len(table)} shapes equal",
        {"shapes": table},
        _picture(rows),
        (
            "Nothing is emulated or assumed here: shapes follow from the network, and the tracer computes nothing. The "
            "network is timm's, after Szegedy et al. (2016, arXiv 1602.07261).",
            "A layer is its convolution, with the batch normalization and activation behind it, which do not change "
            "the shape. The paper writes height · width · filters; PyTorch keeps filters first.",
        ),
    )


def _picture(rows: Sequence[Mapping[str, Any]]) -> Picture:
    """Megabytes after each layer, the shape beside the bar."""
    from spliteasy.pictures import Picture

    figure = Picture(figsize=(8.2, 3.1), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        axes.barh(place, row["MB"], 0.72, color=COLORS[0] if row["kind"] == "conv" else COLORS[1])
        words = f"{row['ours']}  {'=' if row['equal'] else '≠'} paper"
        axes.text(row["MB"] + 0.06, place, words, va="center", fontsize=8.5, color="#222222")
    axes.set_yticks(range(len(rows)), [f"{row['layer']} {row['kind']}" for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel="MB of one image in fp32, which a cut there would send")
    axes.set_xlim(0, 1.22 * max(row["MB"] for row in rows))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_title("What the first seven layers put out: pooling, not depth, makes a cut cheap", fontsize=11)
    figure.alt = "Megabytes of one image after each layer: " + ", ".join(
        f"{row['layer']} {row['kind']} {row['ours']} {row['MB']:.2f} MB" for row in rows
    )
    return figure


def _dotted(shape: tuple[int, ...]) -> str:
    return "·".join(map(str, shape))
