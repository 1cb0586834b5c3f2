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
    """The class of an engine and the file under ``requirements/`` that lists its libraries.

    Attributes:
        path: ``module:Class``.
        requirements: Name of the requirements file without its suffix.
        has_device: Whether the engine runs a model in this process and takes the option
            ``device``.
    """

    path: str
    requirements: str
    has_device: bool = False


def look_up(kind: str, name: str, known: Iterable[str]) -> str:
    """Return ``name`` if it is one of ``known``.

    Raises:
        UnknownNameError: ``name`` is not known; the message suggests the nearest name and lists
            all.
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
    """Return the option ``device`` for engine ``name``, or no option if it runs no model here."""
    return {'device': device} if name in registry and registry[name].has_device else {}


def create_engine(
    kind: str, registry: Mapping[str, EngineEntry], name: str, options: dict[str, Any]
) -> Any:
    """Import the class registered as ``name`` and construct it.

    An option that is ``None`` or ``''`` counts as not given. A launch file or a parameter file can
    thus leave a choice to the engine.

    Args:
        kind: ``'reasoner'`` or ``'segmenter'``; used in messages.
        registry: Engines by name.
        name: Name of the engine.
        options: Keyword arguments of the class.

    Raises:
        UnknownNameError: No such engine.
        EngineOptionError: The engine does not take one of the options. For an old name the
            message gives the new name.
        ModelLoadError: A required library is not installed, or the model cannot be loaded.
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
