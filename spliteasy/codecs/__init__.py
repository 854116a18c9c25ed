"""Codecs: what makes a tensor smaller on the wire. Everything a plugin needs is here and in ``spliteasy.errors``."""

from spliteasy.codecs.base import BytesCodec, Codec, Context, PlaneBound, Planes, TensorCodec, TensorSpec
from spliteasy.codecs.chain import Chain, codec
from spliteasy.codecs.fitted import FittedCodec, Parameters, remember
from spliteasy.codecs.registry import describe_codecs, list_codecs, register

__all__ = [
    "BytesCodec",
    "Chain",
    "Codec",
    "Context",
    "FittedCodec",
    "Parameters",
    "PlaneBound",
    "Planes",
    "TensorCodec",
    "TensorSpec",
    "codec",
    "describe_codecs",
    "list_codecs",
    "register",
    "remember",
]
