"""From a split to a session: in this process, or agreed with a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from spliteasy.codecs.shipping import shipped_planes
from spliteasy.errors import SplitError
from spliteasy.four_calls import FourCalls
from spliteasy.link import Link
from spliteasy.models import recipe_of
from spliteasy.optimization import Loss, make_loss
from spliteasy.program import input_dtype
from spliteasy.server.opening import SessionConfig, boundary_digest
from spliteasy.server.session import Session
from spliteasy.splitting import Split
from spliteasy.transport import HTTP, InProcess, Transport
from spliteasy.weights import layouts_of
from spliteasy.wire import Codecs

__all__ = ["connect"]


def connect(
    split: Split,
    server: str | None,
    codecs: Codecs,
    optimizer: Mapping[str, Any],
    *,
    loss: str | Loss,
    backward: str,
    seed: int,
    norms: bool,
    link: Link | None,
    timeout: float,
    retry: float,
    protocol: str,
    pipeline: int = 1,
) -> Transport:
    """Open a session for segment B: here if ``server`` is None, else on that server, which gets B's weights and the
    parameters that codecs were fitted to.

    Raises `CodecError` for a codec that is still to be fitted, `SplitError` for what a server cannot build (a network
    that was not loaded by name) or does not know (a callable loss in a single split), and what opening a session
    raises.
    """
    b, single = split.b, split.c is None
    assert b is not None
    codecs.require_fitted(single=single)
    if server is None:
        held = make_loss(loss) if single else None
        session = Session(
            b, split.routes, codecs, dict(optimizer),
            loss=held, backward=backward, seed=seed, norms=norms, parts=pipeline,
        )  # fmt: skip
        return InProcess(session, link, protocol)
    recipe = recipe_of(split.model)
    if recipe is None:
        raise SplitError(
            f"A server builds a network by name, and this {type(split.model).__name__} was not loaded by name, or was "
            'changed since. Load it with se.load_model("package.module:factory"), start the server with '
            "`spliteasy serve --allow package.module:factory`, or train in this process with server=None."
        )
    if single and not isinstance(loss, str):
        raise SplitError(
            "In a single split the server holds the loss and knows losses by name; found a callable. Name one of "
            "torch.nn.functional, use a double split, or train in this process with server=None."
        )
    evaluating = [name for name, module in split.model.named_modules() if split.model.training and not module.training]
    config = SessionConfig(
        model=recipe.name,
        arguments=recipe.arguments,
        cuts=list(split.cuts),
        input_shape=list(split.input_shape),
        input_dtype=_name(split.input_dtype),
        dtype=_name(input_dtype(b if any(p.is_floating_point() for p in b.parameters()) else split.model)),
        codecs=codecs.to_dict(),
        fitted=[parameters.digest for parameters in codecs.shipped],
        optimizer=dict(optimizer),
        loss=str(loss) if single else None,
        backward=backward,
        seed=seed,
        frozen=[name for name, parameter in b.named_parameters() if not parameter.requires_grad],
        evaluating=evaluating,
        layouts=layouts_of(dict(b.named_parameters())),
        norms=norms,
        pipeline=pipeline,
        digest=boundary_digest(split),
    )
    weights = dict([*b.named_parameters(), *b.named_buffers()])
    tensors = {**weights, **shipped_planes(codecs.shipped)}
    kind = FourCalls if protocol == "four-call" else HTTP
    return kind(server, config.to_dict(), tensors, link=link, timeout=timeout, retry=retry)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
