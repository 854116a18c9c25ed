"""What torchvision, timm and importable factories offer: names, loading, and errors that name what was meant."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from torch import nn

from spliteasy.errors import ModelError, SplitEasyError, suggest

__all__ = [
    "OWN",
    "check_timm",
    "explained",
    "load_factory",
    "load_timm",
    "load_torchvision",
    "refuse_unknown",
    "refuse_weights",
    "timm_names",
    "torchvision_names",
]

OWN = "digits_cnn"
"""The one network that is this package's own."""

# Ways in which the libraries are told to load weights. A recipe never may: a server builds from it.
_LOADS_WEIGHTS = frozenset(
    {
        *("weights", "weights_backbone", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"),
        *("pretrained_model_args", "checkpoint_path", "cache_dir"),
    }
)


def load_torchvision(
    name: str, num_classes: int | None, weights: object, arguments: dict[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """The model, and the arguments that build the same architecture without weights."""
    import torchvision

    refuse_weights(name, arguments)
    arguments = dict(arguments)
    auxiliary = name in ("inception_v3", "googlenet")
    if auxiliary:
        if arguments.setdefault("aux_logits", False):
            raise ModelError(f"{name} comes without auxiliary heads, which would end on the wrong side of a cut.")
        arguments.setdefault("init_weights", True)  # the library's default; said aloud, it does not warn
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    if weights is None:
        with explained(name, arguments):
            model: nn.Module = torchvision.models.get_model(name, weights=None, **arguments)
        return model, arguments

    chosen = _torchvision_weights(name, weights)
    left_to_library = {"num_classes", "aux_logits", "init_weights"} if auxiliary else {"num_classes"}
    given = {key: value for key, value in arguments.items() if key not in left_to_library}
    with explained(name, {**given, "weights": chosen}):
        model = torchvision.models.get_model(name, weights=chosen, **given)
    if auxiliary:  # the weights have these heads, so they can only go afterwards
        for attribute, value in (("aux_logits", False), ("AuxLogits", None), ("aux1", None), ("aux2", None)):
            if hasattr(model, attribute):
                setattr(model, attribute, value)
    if num_classes is not None and num_classes != len(chosen.meta["categories"]):
        _replace_head(model, num_classes)
    for implied in ("transform_input", "image_size"):  # what the library changes to suit the weights
        if hasattr(model, implied):
            arguments[implied] = getattr(model, implied)
    return model, arguments


def _torchvision_weights(name: str, weights: object) -> Any:
    import torchvision

    kinds = torchvision.models.get_model_weights(name)
    if isinstance(weights, kinds):
        return weights
    wanted = "DEFAULT" if weights is True else str(weights).removeprefix(f"{kinds.__name__}.")
    if wanted not in kinds.__members__:
        raise ModelError(
            f"{name} has no pretrained weights {wanted!r}; there are: {', '.join(kinds.__members__) or 'none'}."
            + suggest(wanted, kinds.__members__)
        )
    return kinds[wanted]


def _replace_head(model: nn.Module, num_classes: int) -> None:
    """Put a fresh classifier in place of the last one, which is the layer registered last in all of torchvision's."""
    for path, layer in reversed(list(model.named_modules())):
        if isinstance(layer, nn.Linear):
            head: nn.Module = nn.Linear(layer.in_features, num_classes, bias=layer.bias is not None)
        elif isinstance(layer, nn.Conv2d):
            head = nn.Conv2d(layer.in_channels, num_classes, kernel_size=1, bias=layer.bias is not None)
        else:
            continue
        model.set_submodule(path, head)
        return


def load_timm(name: str, weights: object, arguments: dict[str, Any]) -> tuple[nn.Module, str, dict[str, Any]]:
    """The model, its name with the tag of the weights (a tag may change the architecture), and its arguments."""
    import timm

    refuse_weights(name, arguments)
    if isinstance(weights, str) and weights != "DEFAULT":
        name = f"{name.split('.')[0]}.{weights}"
    elif weights not in (None, True, "DEFAULT"):
        raise ModelError(f"{name}: weights= takes True or a pretrained tag of timm's, found {weights!r}.")
    check_timm(name)
    with explained(name, arguments if weights is None else {**arguments, "weights": weights}):
        model: nn.Module = timm.create_model(name.removeprefix("timm/"), pretrained=weights is not None, **arguments)
    return model, name, arguments


def check_timm(name: str) -> None:
    """Names only, never a hub or a folder: nothing is fetched that was not asked for with weights=."""
    import timm

    base, _, tag = name.removeprefix("timm/").partition(".")
    if not timm.is_model(base):
        refuse_unknown(name)
    if tag:
        tags = [known.partition(".")[2] for known in timm.list_models(f"{base}.*", include_tags=True)]
        if tag not in tags:
            raise ModelError(
                f"timm's {base} has no pretrained tag {tag!r}; there are: {', '.join(tags) or 'none'}."
                + suggest(tag, tags)
            )


def load_factory(name: str, arguments: dict[str, Any]) -> nn.Module:
    """What the function or class named `"package.module:factory"` returns; ModelError if that is no nn.Module."""
    module_name, _, factory_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as problem:
        raise ModelError(
            f"Cannot import {module_name!r} for the network {name!r}: {type(problem).__name__}: {problem}. "
            "Expected 'package.module:factory' with a module on Python's path."
        ) from problem
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        found = "nothing" if factory is None else type(factory).__name__
        known = [key for key, value in vars(module).items() if callable(value)]
        raise ModelError(
            f"Expected a function or class {factory_name!r} in {module_name!r}, found {found}."
            + suggest(factory_name, known)
        )
    with explained(name, arguments):
        model = factory(**arguments)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} must return an nn.Module, found {type(model).__name__}.")
    return model


@contextlib.contextmanager
def explained(name: str, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Whatever goes wrong while a library builds a network, as a ModelError that says what was asked of it."""
    try:
        yield
    except SplitEasyError:
        raise
    except Exception as problem:
        asked = ", ".join(f"{key}={value!r}" for key, value in arguments.items()) or "no arguments"
        advice = (
            " Fetching pretrained weights needs the network once; without weights= it does not."
            if "weights" in arguments and isinstance(problem, OSError)
            else ""
        )
        found = f"{type(problem).__name__}: {problem}"
        raise ModelError(f"Could not build {name!r} with {asked}: {found}.{advice}") from problem


def torchvision_names() -> list[str]:
    """The classification models of torchvision, under its own names."""
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def timm_names() -> list[str]:
    """The models of timm, each as `timm/NAME`."""
    import timm

    return [f"timm/{name}" for name in timm.list_models()]


def refuse_unknown(name: str) -> NoReturn:
    """Raise the ModelError for a name that nothing here knows, with the near ones."""
    known = [OWN, *torchvision_names(), *timm_names()]
    same = [candidate for candidate in known if _letters(candidate) == _letters(name)]
    raise ModelError(
        f"There is no network {name!r}.{suggest(name.lower(), same or known)} list_models() has every name; "
        "a network of your own is passed as an nn.Module or as 'package.module:factory'."
    )


def _letters(name: str) -> str:
    """What is left of a name without case, separators and library: InceptionResNetV2 is timm/inception_resnet_v2."""
    return re.sub(r"[^a-z0-9]", "", name.lower().removeprefix("timm/"))


def refuse_weights(name: str, arguments: Mapping[str, Any]) -> None:
    """Raise ModelError where an argument would make the library load weights behind `weights=`."""
    loading = sorted(_LOADS_WEIGHTS & set(arguments))
    if loading:
        raise ModelError(
            f"{name}: {', '.join(loading)} cannot be passed on to the library. Ask for pretrained weights with "
            "load_model(..., weights=...), or load a state dict into the model afterwards."
        )
