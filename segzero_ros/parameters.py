# SPDX-License-Identifier: Apache-2.0
"""Parameters of any node: declared with descriptions, checked, read."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from segzero_core.errors import ParameterError

Conflicts = Callable[[Mapping[str, Any]], list[str]]  # values -> which of them cannot go together


@dataclass(frozen=True)
class Spec:
    """What a parameter may be.

    Attributes:
        default: Its type is the parameter's; where it is a float, whole numbers will do too.
        description: What ``ros2 param describe`` shows.
        choices: Returns the values allowed, if only some are.
        low: Smallest value of a number.
        high: Largest value of a number.
        read_only: Can only be set when the node starts.
        live: Can be set at any time; the others only until they are read.
    """

    default: bool | int | float | str
    description: str
    choices: Callable[[], Iterable[str]] | None = None
    low: float = -math.inf
    high: float = math.inf
    read_only: bool = False
    live: bool = False

    def problem(self, value: Any) -> str | None:
        """Return what is wrong with ``value``; ``None`` if nothing is."""
        kind = type(self.default)
        # bool is an int to Python, but `true` is no number to anybody else.
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits:
            return f'must be of type {kind.__name__}'
        if self.choices is not None and value not in (names := sorted(self.choices())):
            return f'must be one of {", ".join(repr(name) for name in names)}'
        if kind in (int, float) and not self.low <= value <= self.high:
            return f'must be from {self.low:g} to {self.high:g}'
        return None

    def descriptor(self) -> ParameterDescriptor:
        """Return what rclpy declares the parameter with."""
        constraints = ''
        if self.choices is not None:
            constraints = f'One of: {", ".join(sorted(self.choices()))}'
        elif math.isfinite(self.low):
            constraints = f'From {self.low:g} to {self.high:g}'
        # With a fixed type or range, rclpy raises in the middle of the node's constructor. Our
        # own check comes with the configure transition and says more.
        return ParameterDescriptor(
            description=self.description,
            additional_constraints=constraints,
            read_only=self.read_only,
            dynamic_typing=True,
        )


def _none(values: Mapping[str, Any]) -> list[str]:
    return []


def declare_parameters(
    node: Node,
    specs: Mapping[str, Spec],
    conflicts: Conflicts = _none,
    settled: Callable[[], str | None] = lambda: None,
) -> None:
    """Declare every parameter; from then on the node refuses values it could not use.

    Values it was started with for parameters that are not there, but are named as if they were,
    are warned of: in a parameter file, ROS passes over what is misspelled.

    Args:
        node: Gets the parameters.
        specs: What they may be.
        conflicts: Looks at values each of which can be used.
        settled: Returns why those that are not live cannot change now; ``None`` if they can.
    """
    for name, spec in specs.items():
        node.declare_parameter(name, spec.default, spec.descriptor())
    for name in _misspelled(node, specs):
        meant = difflib.get_close_matches(name, specs, n=1, cutoff=0.8)
        node.get_logger().warning(
            f'there is no parameter {name}; what it was set to has no effect'
            + ''.join(f'. Is it {each}?' for each in meant)
        )

    def judge(parameters: Sequence[Parameter[Any]]) -> SetParametersResult:
        given = {p.name: p.value for p in parameters if p.name in specs}
        values = {name: node.get_parameter(name).value for name in specs}
        changed = {name: value for name, value in given.items() if value != values[name]}
        problems = _problems(specs, given)
        if not _problems(specs, {**values, **given}):
            problems = conflicts({**values, **given})
        if why := settled():
            problems += [f'{name} {why}' for name in changed if not specs[name].live]
        return SetParametersResult(successful=not problems, reason='; '.join(problems))

    node.add_on_set_parameters_callback(judge)


def read_parameters(
    node: Node, specs: Mapping[str, Spec], conflicts: Conflicts = _none
) -> dict[str, Any]:
    """Return the values of the parameters that were declared with ``specs`` and ``conflicts``.

    Raises:
        ParameterError: Some cannot be used; the message names all of them.
    """
    values = {name: node.get_parameter(name).value for name in specs}
    if problems := _problems(specs, values) or conflicts(values):
        raise ParameterError('; '.join(problems))
    return values


def _misspelled(node: Node, specs: Mapping[str, Spec]) -> list[str]:
    """Return the parameters in one of our groups that were given and do not exist."""
    groups = {name.split('.')[0] for name in specs if '.' in name}
    given = node._parameter_overrides  # rclpy has no other way to see what is not declared
    return sorted(name for name in given if name.split('.')[0] in groups and name not in specs)


def _problems(specs: Mapping[str, Spec], values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with values; those of other parameters are not our business."""
    return [
        f'{name} {problem}, not {value!r}'
        for name, value in values.items()
        if name in specs and (problem := specs[name].problem(value))
    ]
