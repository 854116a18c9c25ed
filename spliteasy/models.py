"""Networks by name, and the recipe from which another process builds the same architecture."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spliteasy.catalogue import (
    OWN,
    check_timm,
    explained,
    load_factory,
    load_timm,
    load_torchvision,
    refuse_unknown,
    refuse_weights,
    timm_names,
    torchvision_names,
)
from spliteasy.errors import ModelError

__all__ = ["DigitsCNN", "Recipe", "build", "input_size_of", "list_models", "load_model", "recipe_of"]

_RECIPE = "spliteasy_recipe"
_STRUCTURE = "_spliteasy_structure"


class DigitsCNN(nn.Module):
    """A small convolutional network for the 8 x 8 digits of `spliteasy.data.digits`: (B, 1, 8, 8) → (B, num_classes).

    34 thousand parameters: enough for 98 % on the digits, and it trains in seconds. It has one of everything that a
    split must get right: batch normalization (buffers), pooling, dropout (random numbers) and a linear head.

    Arguments:
        num_classes: width of the output.
        dropout: probability with which a feature is dropped before the classifier.
    """

    def __init__(self, num_classes: int = 10, dropout: float = 0.25) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, kernel_size=3, padding=1)
        self.norm1 = nn.BatchNorm2d(16)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3, padding=1)
        self.norm2 = nn.BatchNorm2d(32)
        self.relu2 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.relu3 = nn.ReLU()
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(64 * 4 * 4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, 8, 8) images → (B, num_classes) logits."""
        x = self.relu1(self.norm1(self.conv1(images)))  # (B, 16, 8, 8)
        x = self.pool(self.relu2(self.norm2(self.conv2(x))))  # (B, 32, 4, 4)
        x = self.relu3(self.conv3(x))  # (B, 64, 4, 4)
        logits: Tensor = self.classifier(self.dropout(self.flatten(x)))
        return logits


@dataclass(frozen=True)
class Recipe:
    """An architecture in a form that can be sent: a name for `load_model` and its arguments, never any weights.

    Arguments:
        name: a name that `load_model` takes.
        arguments: its keyword arguments, JSON-able (tuples become lists).

    Raises:
        ModelError: for arguments that JSON cannot hold, or that would load weights.
    """

    name: str
    arguments: dict[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not isinstance(self.arguments, Mapping):
            raise ModelError(f"A recipe is a name and a dict of arguments; found {self.name!r}, {self.arguments!r}.")
        try:
            arguments = _as_json(self.arguments)
        except TypeError as problem:
            raise ModelError(f"The arguments of a recipe must fit into JSON: {problem}.") from None
        refuse_weights(self.name, arguments)
        object.__setattr__(self, "arguments", arguments)

    def __hash__(self) -> int:
        return hash((self.name, json.dumps(self.arguments, sort_keys=True)))


def load_model(
    name: str | nn.Module,
    num_classes: int | None = None,
    weights: str | bool | object | None = None,
    **arguments: Any,
) -> nn.Module:
    """A network by name, on the CPU and in training mode.

    Random numbers for its initial weights come from torch's global generator, drawn exactly as the library draws them.

    Arguments:
        name: a torchvision classification model (`"resnet50"`), `"timm/NAME"` for one of timm's, `"digits_cnn"`,
            `"package.module:factory"` for a function or class of your own, or an `nn.Module`, returned as it is.
        num_classes: width of the classifier; None for the library's own (1000, or 10 for `digits_cnn`).
        weights: None for random weights. Torchvision: a name (`"DEFAULT"`, `"IMAGENET1K_V1"`), a member of its weights
            enum, or True for the default. timm: True or a pretrained tag (`"a1_in1k"`). Weights with another
            `num_classes` keep everything but the classifier, which starts anew.
        arguments: passed to the library's constructor, or to the factory.

    InceptionV3 and GoogLeNet come without their auxiliary heads.

    Raises:
        ModelError: for an unknown name (near ones are suggested), arguments the network does not take, weights that do
            not exist or cannot be fetched, and a factory that does not return an `nn.Module`.
    """
    if isinstance(name, nn.Module):
        if num_classes is not None or weights is not None or arguments:
            raise ModelError(
                f"A module of your own ({type(name).__name__}) is used as it is; num_classes, weights and other "
                "arguments go with a name. Make the change in the module, and pass it alone."
            )
        return name
    if not isinstance(name, str):
        raise ModelError(f"Expected the name of a network or an nn.Module, found {type(name).__name__}.")
    if num_classes is not None and (type(num_classes) is not int or num_classes < 1):
        raise ModelError(f"num_classes must be a whole number of 1 or more, found {num_classes!r}.")
    weights = None if weights is False else weights
    classes = {} if num_classes is None else {"num_classes": num_classes}

    if name.startswith("timm/"):
        model, name, arguments = load_timm(name, weights, {**arguments, **classes})
    elif ":" in name:
        arguments = {**arguments, **classes}
        model = load_factory(name, arguments if weights is None else {**arguments, "weights": weights})
    elif name == OWN:
        if weights is not None:
            raise ModelError(f"{OWN} has no pretrained weights: leave weights= out, it trains in seconds.")
        arguments = {**arguments, **classes}
        with explained(name, arguments):
            model = DigitsCNN(**arguments)
    elif name in torchvision_names():
        model, arguments = load_torchvision(name, num_classes, weights, arguments)
    else:
        refuse_unknown(name)

    with contextlib.suppress(ModelError):  # arguments that JSON cannot hold: a good model, without a recipe
        setattr(model, _RECIPE, Recipe(name, arguments))
        setattr(model, _STRUCTURE, _structure(model))
    return model


def list_models(pattern: str | None = None) -> list[str]:
    """Every name that `load_model` knows: our own, torchvision's, then timm's as `timm/NAME`.

    Arguments:
        pattern: keep the names that match it, as a shell would (`"resnet*"`, `"timm/inception*"`); None keeps all.
    """
    names = [OWN, *torchvision_names()]
    literal = re.split(r"[*?\[]", pattern or "", maxsplit=1)[0]
    if literal.startswith("timm/") or "timm/".startswith(literal):  # timm is only imported where it can match
        names += timm_names()
    return names if pattern is None else [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def recipe_of(model: nn.Module) -> Recipe | None:
    """The recipe `load_model` left on a model, or None: a module of your own, or one changed since it was loaded.

    A changed module (another head, another activation) would be built differently elsewhere, so it has no recipe. What
    counts is what its `repr` shows, the shapes of parameters and buffers, and any `forward` put in place of its own;
    values and devices do not.
    """
    recipe = getattr(model, _RECIPE, None)
    unchanged = isinstance(recipe, Recipe) and getattr(model, _STRUCTURE, None) == _structure(model)
    return recipe if unchanged else None


def build(recipe: Recipe, allow: Collection[str] = ()) -> nn.Module:
    """The architecture of a recipe with weights of no meaning; torch's random state is left as it was.

    Arguments:
        recipe: from `recipe_of`, or from another process.
        allow: the `"package.module:factory"` names that may be imported and called. None by default, because a recipe
            may come from elsewhere.

    Raises:
        ModelError: as `load_model`, and for a factory that is not in `allow`.
    """
    if ":" in recipe.name and recipe.name not in allow:
        raise ModelError(
            f"The factory {recipe.name!r} is not allowed here; allowed: {', '.join(sorted(allow)) or 'none'}. "
            f"Start the server with `--allow {recipe.name}` if its code is yours to run."
        )
    with torch.random.fork_rng(devices=[]):
        return load_model(recipe.name, **recipe.arguments)


def input_size_of(model: str | nn.Module) -> tuple[int, int, int]:
    """The input (channels, height, width) a network is made for; (3, 224, 224) where nothing says otherwise.

    Arguments:
        model: a name that `load_model` takes, or a module.

    Raises:
        ModelError: for an unknown name.
    """
    recipe = Recipe(model, {}) if isinstance(model, str) else getattr(model, _RECIPE, Recipe("", {}))
    name, arguments = recipe.name, recipe.arguments
    config = getattr(model, "pretrained_cfg", None)  # on every module that timm made
    if name.startswith("timm/"):
        import timm

        check_timm(name)
        config = timm.get_pretrained_cfg(name.removeprefix("timm/"))
    elif isinstance(model, str) and ":" not in name and name not in (OWN, *torchvision_names()):
        refuse_unknown(name)
    if name == OWN or isinstance(model, DigitsCNN):
        return 1, 8, 8
    channels, height, width = 3, 224, 224
    if name == "inception_v3":
        height = width = 299
    elif config is not None:
        made_for = config["input_size"] if isinstance(config, Mapping) else config.input_size
        channels, height, width = made_for
    asked = arguments.get("image_size") or arguments.get("img_size") or arguments.get("input_size")
    if isinstance(asked, int):
        height = width = asked
    elif isinstance(asked, list) and len(asked) == 2:
        height, width = asked
    return int(arguments.get("in_chans", channels)), height, width


def _as_json(value: Any) -> Any:
    """`value` as JSON would give it back; TypeError for what JSON cannot hold."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _as_json(item) for key, item in value.items()}
    raise TypeError(f"{value!r} of type {type(value).__name__} does not")


def _structure(model: nn.Module) -> str:
    """A digest of modules, their settings, and the shapes of parameters and buffers; not of any value."""
    parameters = [(name, tuple(tensor.shape)) for name, tensor in model.named_parameters(remove_duplicate=False)]
    buffers = [(name, tuple(tensor.shape)) for name, tensor in model.named_buffers(remove_duplicate=False)]
    replaced = [name for name, module in model.named_modules() if "forward" in vars(module)]
    return hashlib.sha256(f"{model!r}{parameters}{buffers}{replaced}".encode()).hexdigest()
