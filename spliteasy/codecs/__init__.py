"""Codecs: what makes a tensor smaller on the wire. Everything a plugin needs is here and in ``spliteasy.errors``."""

from spliteasy.codecs.base import BytesCodec, Codec, Context, PlaneBound, TensorCodec, TensorSpec
from spliteasy.codecs.chain import Chain, codec
from spliteasy.codecs.fitted import FittedCodec, Parameters, remember
from spliteasy.codecs.registry import list_codecs, register

__all__ = [
    "BytesCodec",
    "Chain",
    "Codec",
    "Context",
    "FittedCodec",
    "Parameters",
    "PlaneBound",
    "TensorCodec",
    "TensorSpec",
    "codec",
    "list_codecs",
    "register",
    "remember",
]
