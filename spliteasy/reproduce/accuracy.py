"""Figure 3 of the paper: test accuracy over epochs, ordinary SGD against the split procedure, exact and the paper's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spliteasy.errors import ReproduceError
from spliteasy.optimization import check_optimizer
from spliteasy.reproduce.bars import COLORS
from spliteasy.reproduce.reproduction import Reproduction
from spliteasy.reproduce.step_times import Architecture
from spliteasy.reproduce.training_data import Images, batches, images
from spliteasy.seeding import preserved, step_seed
from spliteasy.splitting import split
from spliteasy.trainer import Trainer

if TYPE_CHECKING:
    from spliteasy.pictures import Picture

__all__ = ["FIG3_NETWORKS", "fig3"]

FIG3_NETWORKS = (
    Architecture("VGG-11", "spliteasy.reproduce.vgg:vgg11_for_small_images", side=32),
    Architecture("DenseNet-121", "densenet121", side=32),
)
"""The two networks of Figure 3 as they are trained here."""

_SGD: Mapping[str, Any] = {"name": "SGD", "lr": 0.02, "momentum": 0.9}
_WAYS = ("ordinary SGD", "split, exact", "split, auxiliary label")


@dataclass(frozen=True)
class _Curve:
    """Accuracy after each epoch, the state at the end, and the largest gradient error of a step."""

    accuracy: list[float]
    state: dict[str, Tensor]
    error: float = 0.0


def fig3(
    *,
    data: str | os.PathLike[str] | None = None,
    networks: Sequence[Architecture] = FIG3_NETWORKS,
    epochs: int | None = None,
    train: int | None = None,
    batch: int = 32,
    optimizer: Mapping[str, Any] = _SGD,
    seed: int = 0,
    quick: bool = False,
    progress: bool = True,
) -> Reproduction:
    """Test accuracy over epochs of each network trained by plain PyTorch, and in a double split with the exact gradient
    and with the paper's auxiliary label: the same weights, batches and random numbers in all three.

    Whether the exact curve is the ordinary one is decided by `torch.equal` on every parameter and buffer at the end.

    Arguments:
        data: the folder that holds ``cifar-100-python``; None for scikit-learn's digits at 32 × 32.
        networks: to be trained; cut after the first max pooling and before the classifier.
        epochs: None for 4 on digits, 20 on CIFAR-100, 2 if ``quick``.
        train: training images, the first ones; None for 384 digits, all of CIFAR-100, 64 if ``quick``.
        batch: images a step.
        optimizer: as `spliteasy.Trainer` takes it.
        seed: of weights, batches and steps.
        quick: a few steps, to see that it works.
        progress: shows a bar.

    Raises `ReproduceError` for epochs below 1 or no networks, `DataError` where no CIFAR-100 is.
    """
    import pandas
    from tqdm.auto import tqdm

    epochs = epochs if epochs is not None else 2 if quick else 4 if data is None else 20
    if type(epochs) is not int or epochs < 1 or not networks:
        raise ReproduceError(f"Expected 1 epoch or more and a network, found {epochs!r} and {len(networks)} networks.")
    train = train if train is not None else 64 if quick else 384 if data is None else None
    found = images(data, train, 60 if quick else None)
    rows: list[dict[str, Any]] = []
    ends: list[dict[str, Any]] = []
    with tqdm(total=len(networks) * len(_WAYS) * epochs, desc="fig3", unit="epoch", disable=not progress) as bar:
        for network in networks:
            sized = replace(network, arguments={**network.arguments, "num_classes": found.classes})
            at = sized.usual_cuts()
            own = found.fitted_to(sized.input_shape)
            curves = {}
            for way in _WAYS:
                bar.set_postfix_str(f"{network.title}, {way}")
                settings = (sized, own, epochs, batch, dict(optimizer), seed, bar)
                curves[way] = (
                    _ordinary(*settings) if way == _WAYS[0] else _split(*settings, at=at, exact=way == _WAYS[1])
                )
            for epoch in range(epochs):
                rows.append(
                    {"network": network.title, "epoch": epoch + 1}
                    | {f"test %, {way}": 100 * curve.accuracy[epoch] for way, curve in curves.items()}
                )
            ends += [_end(network.title, way, curves[way], curves[_WAYS[0]]) for way in _WAYS[1:]]
    table, distances = pandas.DataFrame(rows), pandas.DataFrame(ends)
    equal = all(end["equal to the bit"] for end in ends if end["way"] == _WAYS[1])
    title = f"Figure 3: test accuracy over epochs on {found.name}"
    largest = max(end["points apart at most"] for end in ends if end["way"] == _WAYS[2])
    return Reproduction(
        "fig3",
        f"{title}; split exact {'equals' if equal else 'DIFFERS from'} ordinary SGD"
        f"{' to the bit' if equal else ''}, the auxiliary label lies within {largest:.1f} points",
        {"accuracy": table, "weights after the last epoch": distances},
        _picture(title, rows),
        (
            "The paper's curves nearly coincide. Ours with the exact gradient "
            + ("are one: every parameter and buffer is torch.equal." if equal else "differ, which is a defect.")
            + " With its auxiliary label (of the sign that descends) each gradient is rounded to the float spacing "
            "around the output; training then carries the difference on, as it would that of any last bit.",
            f"The data are {found.name}: {len(found.train[0])} training and {len(found.test[0])} test images of 32 × "
            f"32, {epochs} epochs, batch {batch}. "
            + (
                "They are far easier than the paper's CIFAR-100 (give its folder as data=), so accuracies cannot be "
                "compared with the paper's, only the curves with each other."
                if data is None
                else "The paper's epochs, batch and learning rate are not stated in our notes."
            ),
            "VGG-11 is torchvision's with batch normalization and one linear layer, for 32 × 32. Both networks are cut "
            f"after the first max pooling and before the classifier; {dict(optimizer)}, seed {seed}, one run each.",
            "Device and server share one process here: over HTTP the numbers are the same to the bit.",
        ),
    )


def _tests(part: Images) -> list[tuple[Tensor, Tensor]]:
    return list(zip(*(torch.split(whole, 120) for whole in part.test), strict=True))


def _ordinary(
    network: Architecture, part: Images, epochs: int, batch: int, optimizer: Mapping[str, Any], seed: int, bar: Any
) -> _Curve:
    """Plain PyTorch, nothing of this package in the step."""
    model = network.load().train()
    wanted = check_optimizer(dict(optimizer))
    arguments = {name: value for name, value in wanted.items() if name != "name"}
    update = getattr(torch.optim, wanted["name"])(model.parameters(), **arguments)
    accuracy, step = [], 0
    with preserved():
        for epoch in range(epochs):
            for x, y in batches(*part.train, batch, seed, epoch):
                torch.manual_seed(step_seed(seed, step))
                update.zero_grad()
                F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
                update.step()
                step += 1
            accuracy.append(_accuracy(model, part))
            bar.update()
    return _Curve(accuracy, model.state_dict())


def _accuracy(model: nn.Module, part: Images) -> float:
    """The share of right answers on the test images, in eval mode."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in _tests(part))
    model.train()
    return right / len(part.test[0])


def _split(
    network: Architecture, part: Images, epochs: int, batch: int, optimizer: Mapping[str, Any], seed: int, bar: Any,
    *, at: Sequence[str], exact: bool,
) -> _Curve:  # fmt: skip
    """The double split, in this process."""
    parts = split(network.load(), tuple(at), network.input_shape)
    accuracy = []
    method = "exact" if exact else "auxiliary-label"
    with Trainer(parts, optimizer=optimizer, backward=method, seed=seed) as trainer:
        for epoch in range(epochs):
            for x, y in batches(*part.train, batch, seed, epoch):
                trainer.step(x, y)
            accuracy.append(trainer.evaluate(_tests(part)).accuracy or 0.0)
            bar.update()
        error = max(record.gradient_error for record in trainer.log)
    return _Curve(accuracy, parts.state_dict(), error)


def _end(network: str, way: str, curve: _Curve, reference: _Curve) -> dict[str, Any]:
    """How far a way's weights and accuracies are from ordinary SGD's."""
    pairs = [(curve.state[name].double(), value.double()) for name, value in reference.state.items()]
    apart = sum(float((one - other).square().sum()) for one, other in pairs)
    size = sum(float(other.square().sum()) for _, other in pairs)
    points = max(abs(a - b) for a, b in zip(curve.accuracy, reference.accuracy, strict=True))
    return {
        "network": network,
        "way": way,
        "equal to the bit": all(torch.equal(curve.state[name], value) for name, value in reference.state.items()),
        "relative distance": f"{(apart / size) ** 0.5:.2g}",
        "points apart at most": 100 * points,
        "gradient error at most": f"{curve.error:.2g}",
    }


def _picture(title: str, rows: Sequence[Mapping[str, Any]]) -> Picture:
    """A panel for each network; the exact curve is dashed so that the ordinary one shows below it."""
    from spliteasy.pictures import Picture

    names = list(dict.fromkeys(row["network"] for row in rows))
    figure = Picture(figsize=(4.9 * len(names), 3.9), layout="constrained")
    styles = zip(_WAYS, ((COLORS[5], 6, "-"), ("#000000", 1.5, "--"), (COLORS[1], 1.8, "-")), strict=True)
    looks = dict(styles)
    told = []
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False, sharey=True)[0], names, strict=True):
        own = [row for row in rows if row["network"] == name]
        places = [row["epoch"] for row in own]
        for way, (color, width, dash) in looks.items():
            values = [row[f"test %, {way}"] for row in own]
            mark, order = "o" if len(own) == 1 else None, 4 if dash == "--" else 3
            axes.plot(places, values, color=color, lw=width, ls=dash, label=way, marker=mark, zorder=order)
            told.append(f"{name}, {way}: {', '.join(f'{value:.1f}' for value in values)} %")
        axes.set(title=name, xlabel="epoch", xticks=places if len(places) < 12 else places[:: len(places) // 8])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eeeeee")
    first = figure.axes[0]
    first.set_ylabel("test accuracy, %")
    first.legend(frameon=False, fontsize=8.5, loc="lower right")
    figure.suptitle(title, fontsize=11)
    figure.alt = f"{title}. {'; '.join(told)}."
    return figure
