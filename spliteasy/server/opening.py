"""What both sides agree on when a session opens, and how the server builds its segment from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from spliteasy.codecs.container import DTYPE_NAMES
from spliteasy.codecs.shipping import receive_shipped
from spliteasy.errors import CodecError, FrameError, SplitEasyError, SplitError
from spliteasy.models import Recipe, build
from spliteasy.optimization import check_optimizer, make_loss
from spliteasy.parts import MOST_PARTS
from spliteasy.server.limits import LARGEST_MESSAGE
from spliteasy.server.session import Session
from spliteasy.splitting import Split, split
from spliteasy.weights import copy_weights, lay_out
from spliteasy.wire import Codecs

__all__ = ["SessionConfig", "boundary_digest", "open_session"]


@dataclass(frozen=True)
class SessionConfig:
    """Everything but the tensors: the network by name, the cuts, chains, optimizer, loss (single split) and seed.

    ``fitted`` are the digests of what the chains' codecs were fitted to, which travels beside the weights.
    ``digest`` fingerprints the boundaries as the device's libraries trace them; ``frozen`` names B's parameters that
    are not trained and ``layouts`` those that do not lie in memory row by row; ``evaluating`` are the network's modules
    that stay in eval mode; ``norms`` asks for gradient norms with every
    step, which clipping needs; ``pipeline`` is the most parts that a step has.
    """

    model: str
    arguments: dict[str, Any]
    cuts: list[str]
    input_shape: list[int]
    input_dtype: str
    dtype: str
    codecs: dict[str, str]
    fitted: list[str]
    optimizer: dict[str, Any]
    loss: str | None
    backward: str
    seed: int
    frozen: list[str]
    evaluating: list[str]
    layouts: dict[str, list[int]]
    norms: bool
    pipeline: int
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, text: str) -> SessionConfig:
        """Read from JSON. Raises `FrameError` if a field is missing, unknown or of another type."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        kinds: dict[str, type | tuple[type, ...]] = {
            "model": str, "arguments": dict, "cuts": list, "input_shape": list, "input_dtype": str, "dtype": str,
            "codecs": dict, "fitted": list, "optimizer": dict, "loss": (str, type(None)), "backward": str, "seed": int,
            "frozen": list, "evaluating": list, "layouts": dict, "norms": bool, "pipeline": int, "digest": str,
        }  # fmt: skip
        names = [field.name for field in fields(cls)]
        if not isinstance(value, dict) or set(value) != set(names):
            raise FrameError(f"Expected a session's configuration with {', '.join(names)}; found {_keys(value)}.")
        for name, kind in kinds.items():
            if not isinstance(value[name], kind):
                raise FrameError(
                    f"Expected another type of {name} in the session's configuration; found {value[name]!r}."
                )
        if not all(type(size) is int and 0 < size <= 1 << 20 for size in value["input_shape"]):
            raise FrameError(f"Expected an input shape of whole numbers, found {value['input_shape']}.")
        if isinstance(value["pipeline"], bool) or not 1 <= value["pipeline"] <= MOST_PARTS:
            raise FrameError(f"Expected a pipeline of 1 to {MOST_PARTS} parts, found {value['pipeline']!r}.")
        if not 1 <= len(value["cuts"]) <= 2:
            raise FrameError(f"Expected one or two cuts, found {len(value['cuts'])}.")
        for name in ("cuts", "fitted", "frozen", "evaluating"):
            if not all(isinstance(item, str) for item in value[name]):
                raise FrameError(f"Expected names in {name} of the session's configuration, found {value[name]!r}.")
        if (value["loss"] is not None) != (len(value["cuts"]) == 1):
            raise FrameError(f"Expected a loss in a single split and none in a double, found {value['loss']!r}.")
        return cls(**value)


def open_session(
    config: SessionConfig,
    tensors: Mapping[str, torch.Tensor],
    allow: Collection[str] = (),
    largest_message: int = LARGEST_MESSAGE,
) -> Session:
    """Build the network, split it, give B its weights and start a session; A and C are forgotten.

    ``tensors`` are B's weights and the parameters of fitted codecs, which only the session's codecs hold on to. Raises
    `FrameError` if these have other digests than announced or no chain names them, `CodecError` if a chain names
    others, what `models.build`, `split`, `Codecs` and the optimizer raise for names they do not know, `SplitError`
    when this machine's libraries trace the network differently from the device's, and `DataError` if one sample's
    tensors take more than ``largest_message`` bytes.
    """
    codecs, weights = _agreed(config, tensors)
    result = _split(config, allow)
    if boundary_digest(result) != config.digest:
        raise SplitError(
            f"The server traces {config.model!r} differently from the device: the tensors at {config.cuts} are not the "
            f"same. Install the same versions of torch (here {torch.__version__}), torchvision and timm on both."
        )
    assert result.b is not None
    lay_out(dict(result.b.named_parameters()), config.layouts)
    copy_weights(weights, dict([*result.b.named_parameters(), *result.b.named_buffers()]))
    for name, parameter in result.b.named_parameters():
        trained = parameter.is_floating_point() or parameter.is_complex()
        parameter.requires_grad_(name not in config.frozen and trained)
    session = Session(
        result.b,
        result.routes,
        codecs,
        check_optimizer(config.optimizer),
        loss=make_loss(config.loss) if config.loss is not None else None,
        backward=config.backward,
        seed=config.seed,
        norms=config.norms,
        parts=config.pipeline,
        largest_message=largest_message,
    )
    session.limits.check("forward", 0)  # found now, and not with the first step
    return session


def _agreed(config: SessionConfig, tensors: Mapping[str, torch.Tensor]) -> tuple[Codecs, dict[str, torch.Tensor]]:
    """The chains, with the parameters that came for them, and the weights.

    Parameters that only another session of this server brought do not count: whether that one is open must make no
    difference.
    """
    held, weights = receive_shipped(tensors, config.fitted)
    codecs = Codecs.from_dict(config.codecs)
    codecs.require_fitted(single=len(config.cuts) == 1)
    came, named = {parameters.digest for parameters in held}, {parameters.digest for parameters in codecs.shipped}
    if named - came:
        raise CodecError(
            f"The chains name fitted parameters that did not come with them: {', '.join(sorted(named - came))}. Ship "
            "them when opening the session, as se.Trainer does."
        )
    if came - named:
        raise FrameError(f"Expected the parameters of fitted codecs alone, found {', '.join(sorted(came - named))}.")
    return codecs, weights


def _split(config: SessionConfig, allow: Collection[str]) -> Split:
    """The network in segments. What its construction trips over is a `SplitError`: the configuration came from
    elsewhere."""
    try:
        model = build(Recipe(config.model, config.arguments), allow).to(_dtype(config.dtype))
        for name, module in model.named_modules():
            module.training = name not in config.evaluating
        return split(model, config.cuts, config.input_shape, dtype=_dtype(config.input_dtype))
    except SplitEasyError:
        raise
    except Exception as error:
        raise SplitError(
            f"Expected a network, dtypes and an input shape that go together, found that {config.model!r} cannot be "
            f"split for inputs of {config.input_shape} {config.input_dtype}: {type(error).__name__}: {error}"
        ) from error


def boundary_digest(result: Split) -> str:
    """A fingerprint of what crosses the cuts: names, shapes and dtypes by mode, and B's parameters and buffers."""
    assert result.b is not None
    slots = [
        (training, route.up, route.down, sorted(route.kept.items()), [boundary.slots if boundary else None])
        for training, route in sorted(result.routes.items())
        for boundary in (result.b.entry[training], result.b.exit[training])
    ]
    state = [(name, tuple(t.shape)) for name, t in [*result.b.named_parameters(), *result.b.named_buffers()]]
    return hashlib.sha256(repr((slots, sorted(state))).encode()).hexdigest()


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or dtype not in DTYPE_NAMES:
        raise FrameError(f"Expected a dtype of torch that a frame can hold, found {name!r}.")
    return dtype


def _keys(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
