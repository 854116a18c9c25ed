"""Reading the notation: ``topk(0.1) | fp16 | zstd(1)``. Names, literals and bars; nothing is evaluated."""

from __future__ import annotations

import ast

from spliteasy.codecs.base import Codec
from spliteasy.codecs.registry import get
from spliteasy.errors import CodecError

__all__ = ["parse"]

MAX_LENGTH = 1000
"""The longest notation accepted, in characters."""


def parse(text: str) -> list[Codec]:
    """The codecs that ``text`` names, in order. Raises ``CodecError``, saying what is wrong with which part."""
    if len(text) > MAX_LENGTH:
        raise CodecError(f"expected a chain of at most {MAX_LENGTH} characters, found {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = getattr(error, "msg", error)
        raise CodecError(f"cannot read the chain {text!r}: {reason}. {EXPECTED}") from None
    parts: list[ast.expr] = []
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            pending += [node.right, node.left]
        else:
            parts.append(node)
    return [_build(part, text) for part in parts]


EXPECTED = "Expected codecs with literal arguments between bars, such as 'topk(0.1) | fp16 | zstd(1)'"


def _build(node: ast.expr, text: str) -> Codec:
    """One codec: a name, or a call of a name with literals."""
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    if not isinstance(call.func, ast.Name):
        raise CodecError(f"cannot read {ast.unparse(node)!r} in the chain {text!r}. {EXPECTED}")
    name = call.func.id
    try:
        arguments = [ast.literal_eval(argument) for argument in call.args]
        keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise CodecError(f"the arguments of {name!r} in the chain {text!r} are not literals. {EXPECTED}") from None
    cls = get(name)
    try:
        return cls(*arguments, **keywords)
    except (TypeError, ValueError) as error:
        raise CodecError(f"wrong arguments for codec {name!r} in the chain {text!r}: {error}") from error
