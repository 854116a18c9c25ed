"""A strict reader of the text format of Prometheus (0.0.4), written from its specification and not from our writer."""

from __future__ import annotations

import re

__all__ = ["parse"]

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"'
_SAMPLE = re.compile(rf"({_NAME})(?:\{{((?:{_LABEL})(?:,{_LABEL})*)\}})? (\S+)")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> Samples:
    """Every sample by its name and labels. Families must be told of before their samples, each once, in one piece."""
    assert text.endswith("\n") and "\r" not in text
    samples: Samples = {}
    helped: set[str] = set()
    kinds: dict[str, str] = {}
    current = ""
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            name, _, told = line.removeprefix("# HELP ").partition(" ")
            assert re.fullmatch(_NAME, name) and told and name not in helped, line
            helped.add(name)
        elif line.startswith("# TYPE "):
            name, _, kind = line.removeprefix("# TYPE ").partition(" ")
            assert kind in ("counter", "gauge", "histogram", "summary", "untyped") and name not in kinds, line
            kinds[name], current = kind, name
        else:
            found = _SAMPLE.fullmatch(line)
            assert found is not None, line
            name, labels, value = found[1], re.findall(_LABEL, found[2] or ""), float(found[found.lastindex or 0])
            assert name == current and name in helped, line
            assert len({label for label, _ in labels}) == len(labels), line
            assert kinds[name] != "counter" or (name.endswith("_total") and value >= 0), line
            key = name, frozenset(labels)
            assert key not in samples, line
            samples[key] = value
    return samples
