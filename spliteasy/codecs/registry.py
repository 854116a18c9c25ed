"""Codecs by name. Every codec but ``raw`` arrives through the entry-point group ``spliteasy.codecs``, ours and
others' alike.

A package adds one by a line in its pyproject.toml, and it is loaded when first used:

    [project.entry-points."spliteasy.codecs"]
    mine = "my_package.my_module:MyCodec"

In a notebook, ``register("mine", MyCodec)`` does the same for the running process.
"""

from __future__ import annotations

import functools
import inspect
import keyword
import os
import re
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from importlib.metadata import EntryPoint
from typing import NamedTuple

from spliteasy.codecs.base import BytesCodec, Codec, TensorCodec
from spliteasy.codecs.raw import Raw
from spliteasy.errors import CodecError, suggest

__all__ = ["GROUP", "CodecRow", "describe_codecs", "get", "list_codecs", "register"]

GROUP = "spliteasy.codecs"
"""The entry-point group."""

_registered: dict[str, type[Codec]] = {Raw.name: Raw}


class CodecRow(NamedTuple):
    """One line of ``spliteasy codecs``. ``kind`` is ``tensor`` or ``bytes``, or ``broken`` for a codec that does not
    load; its ``summary`` then says why, and what to install. ``origin`` is the distribution it came with, ``example``
    a notation to try."""

    name: str
    kind: str
    origin: str
    lossless: bool
    summary: str
    citation: str
    example: str


def list_codecs() -> list[str]:
    """The names of all codecs, ``raw`` first. Raises ``CodecError`` if two distributions use the same name."""
    return sorted({*_entry_points(), *_registered}, key=lambda name: (name != Raw.name, name))


def describe_codecs() -> list[CodecRow]:
    """A row for every codec of ``list_codecs``. Loads them all; one that fails to load gets a row that says so."""
    rows: list[CodecRow] = []
    for name in list_codecs():
        origin = _origin(_entry_points()[name]) if name not in _registered else _home(_registered[name])
        try:
            found = get(name)
        except CodecError as error:
            rows.append(CodecRow(name, "broken", origin, False, str(error), "", ""))
        else:
            rows.append(
                CodecRow(name, found.kind, origin, found.lossless, found.summary, found.citation, found.example or name)
            )
    return rows


def get(name: str) -> type[Codec]:
    """The class of a codec. Raises ``CodecError`` for a name that is unknown, used twice, or that does not load."""
    installed = _entry_points()
    if name in _registered:
        return _registered[name]
    if name not in installed:
        known = list_codecs()
        raise CodecError(
            f"there is no codec {name!r}.{suggest(name, known)} Installed: {', '.join(known)}. Others come "
            f"in packages that use the entry-point group {GROUP!r}; register(name, class) adds one to this process"
        )
    return _load(installed[name])


def register(name: str, cls: type[Codec]) -> None:
    """Add a codec to this process under ``name``. Defining a class again (running its cell twice) replaces it.

    Raises ``CodecError`` if the name is taken, or if ``cls`` is not a complete codec.
    """
    _check(name, cls, f"register({name!r}, ...)")
    taken = _registered.get(name)
    if name in _entry_points() or (taken is not None and _home(taken) != _home(cls)):
        owner = _origin(_entry_points()[name]) if taken is None else _home(taken)
        raise CodecError(f"two codecs are named {name!r}: one of {owner} and one of {_home(cls)}; choose another name")
    cls.name = name
    _registered[name] = cls


def _check(name: str, cls: object, source: str) -> type[Codec]:
    """``cls``, if it is a codec that can be built and that may be called ``name``."""
    if not (isinstance(cls, type) and issubclass(cls, TensorCodec | BytesCodec)):
        raise CodecError(f"{source}: expected a subclass of TensorCodec or BytesCodec, found {cls!r}")
    if inspect.isabstract(cls):
        raise CodecError(f"{source}: {cls.__name__} lacks {', '.join(sorted(cls.__abstractmethods__))}")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or keyword.iskeyword(name):
        found = f"{name!r}, which no notation can hold" if keyword.iskeyword(name) else repr(name)
        raise CodecError(f"{source}: expected a name of letters, digits and underscores, found {found}")
    if vars(cls).get("name", name) != name:
        raise CodecError(f"{source}: {cls.__name__} calls itself {cls.name!r}; its attribute `name` must be {name!r}")
    return cls


@functools.cache
def _load(entry: EntryPoint) -> type[Codec]:
    source = f"codec {entry.name!r} of {_origin(entry)}"
    try:
        cls = entry.load()
    except Exception as error:
        advice = _advice(error, entry)
        raise CodecError(f"{source} does not load: {type(error).__name__}: {error}; {advice}") from error
    checked = _check(entry.name, cls, source)
    checked.name = entry.name
    return checked


def _advice(error: Exception, entry: EntryPoint) -> str:
    """What to do about a codec that does not load: the extra of its distribution that brings the missing library."""
    missing = (getattr(error, "name", None) or "").split(".")[0] if isinstance(error, ImportError) else ""
    if not missing:
        return f"look for the error in {entry.module}, or ask the authors of {_origin(entry)}"
    owner = entry.dist
    for requirement in getattr(owner, "requires", None) or []:
        found = re.match(r"([\w.-]+).*;.*\bextra\s*==\s*['\"]([\w.-]+)['\"]", requirement)
        if owner and found and _plain_name(found[1]) == _plain_name(missing) and found[2] != "test":
            return f"pip install '{owner.name}[{found[2]}]' brings it"
    return f"install the package that provides the module {missing!r}"


def _plain_name(name: str) -> str:
    """A distribution's or module's name, by the spelling that both may share."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _entry_points() -> dict[str, EntryPoint]:
    """What is installed, not loaded; looked for again when a folder on the path changed (a package was installed)."""
    places = tuple((place, os.stat(place).st_mtime_ns) for place in sys.path if os.path.isdir(place))
    return _found(metadata.entry_points, places)


@functools.lru_cache(maxsize=1)
def _found(find: Callable[..., Iterable[EntryPoint]], places: tuple[tuple[str, int], ...]) -> dict[str, EntryPoint]:
    """Every entry point of the group, by name. ``find`` looks for them in ``places``."""
    found: dict[str, EntryPoint] = {}
    for entry in find(group=GROUP):
        other = found.setdefault(entry.name, entry)
        if entry.name == Raw.name or (_origin(other), other.value) != (_origin(entry), entry.value):
            owner = "spliteasy itself" if entry.name == Raw.name else _origin(other)
            both = f"one of {owner} and one of {_origin(entry)}"
            raise CodecError(f"two codecs are named {entry.name!r}: {both}; uninstall one of the two")
    return found


def _origin(entry: EntryPoint) -> str:
    """The distribution that an entry point came with, and its version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value


def _home(cls: type[Codec]) -> str:
    """Where a registered class was defined."""
    return "spliteasy" if cls is Raw else f"{cls.__module__}.{cls.__qualname__}"
