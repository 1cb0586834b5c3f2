# SPDX-License-Identifier: Apache-2.0
"""Engines by name, imported only when asked for, so that importing segzero needs no torch."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from segzero_core.errors import EngineOptionError, ModelLoadError, UnknownNameError
from segzero_core.renamed import new_name


class EngineEntry(NamedTuple):
    """Where an engine lives and which file under ``requirements/`` lists what it needs.

    Attributes:
        path: ``module:Class``.
        requirements: The file's name without its suffix.
        has_device: It runs a model in this process and takes the option ``device``.
    """

    path: str
    requirements: str
    has_device: bool = False


def look_up(kind: str, name: str, known: Iterable[str]) -> str:
    """Return ``name`` if it is one of ``known``.

    Raises:
        UnknownNameError: It is not; the message suggests the nearest and lists all.
    """
    names = sorted(known)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise UnknownNameError(f'unknown {kind} {name!r}.{hint} Available: {", ".join(names)}')


def device_option(
    registry: Mapping[str, EngineEntry], name: str, device: str | None
) -> dict[str, Any]:
    """Return where models are to run as an option of engine ``name``, if it runs one."""
    return {'device': device} if name in registry and registry[name].has_device else {}


def create_engine(
    kind: str, registry: Mapping[str, EngineEntry], name: str, options: dict[str, Any]
) -> Any:
    """Import the class registered as ``name`` and construct it.

    Options that are ``None`` or ``''`` count as not given, so that a launch file or a parameter
    file can leave a choice to the engine.

    Args:
        kind: ``'reasoner'`` or ``'segmenter'``; used in messages.
        registry: EngineEntry name to engine.
        name: The engine wanted.
        options: Keyword arguments of the class.

    Raises:
        UnknownNameError: No such engine.
        EngineOptionError: The engine does not take one of the options; for an old name the
            message says the new one.
        ModelLoadError: A library the engine needs is not installed, or its model cannot be loaded.
    """
    entry = registry[look_up(kind, name, registry)]
    module_name, class_name = entry.path.split(':')
    try:
        engine = getattr(importlib.import_module(module_name), class_name)
    except ImportError as error:
        raise ModelLoadError(
            f'{kind} {name!r} needs a library that cannot be imported here ({error}). '
            f'Install it with: pip install -r requirements/{entry.requirements}.txt'
        ) from error
    given = {key: value for key, value in options.items() if value is not None and value != ''}
    taken = list(inspect.signature(engine).parameters)
    for key, value in given.items():
        if key not in taken:
            renamed = f' It is called {new_name(key)!r} now.' if new_name(key) in taken else ''
            raise EngineOptionError(
                f'{kind} {name!r} has no option {key!r} (given {value!r}).{renamed} '
                f'It takes: {", ".join(taken) or "no options"}'
            )
    return engine(**given)
