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

from segzero_core.errors import ParameterError, quoted
from segzero_core.renamed import new_name

# Values -> reasons why some of them cannot be combined.
Conflicts = Callable[[Mapping[str, Any]], list[str]]


@dataclass(frozen=True)
class Spec:
    """The default and the valid values of a parameter.

    Attributes:
        default: Its type is the parameter's type. Where it is a float, integers are valid too.
        description: Text for ``ros2 param describe``, the parameter file and the docs.
        choices: Returns the valid values, if only some are.
        low: Smallest value of a number.
        high: Largest value of a number.
        read_only: Can only be set when the node starts.
        live: Can be set at any time; the others only while the node is unconfigured.
    """

    default: bool | int | float | str
    description: str
    choices: Callable[[], Iterable[str]] | None = None
    low: float = -math.inf
    high: float = math.inf
    read_only: bool = False
    live: bool = False

    def problem(self, value: Any) -> str | None:
        """Return why ``value`` is invalid; ``None`` if it is valid."""
        kind = type(self.default)
        # bool is a subclass of int in Python, but a user who writes `true` does not mean a number.
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits:
            return f'must be of type {kind.__name__}'
        if self.choices is not None and value not in (names := sorted(self.choices())):
            return f'must be one of {", ".join(repr(name) for name in names)}'
        if kind in (int, float) and not self.low <= value <= self.high:
            return f'must be from {self.low:g} to {self.high:g}'
        return None

    @property
    def constraints(self) -> str:
        """The valid values, for people; '' if there is no limit."""
        if self.choices is not None:
            return 'One of: ' + ', '.join(name or "''" for name in sorted(self.choices()))
        return f'From {self.low:g} to {self.high:g}' if math.isfinite(self.low) else ''

    def descriptor(self) -> ParameterDescriptor:
        """Return the descriptor that rclpy declares the parameter with."""
        # With a fixed type or range, rclpy raises in the middle of the node's constructor. Our
        # own check runs in the configure transition and says more.
        return ParameterDescriptor(
            description=self.description,
            additional_constraints=self.constraints,
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
    """Declare every parameter; from then on the node refuses invalid values.

    ROS ignores parameters that a node does not have, such as misspelled ones in a parameter file.
    Here each of them is warned of; one that had this name before version 0.2.0 is an error.

    Args:
        node: Gets the parameters.
        specs: Name to default and valid values.
        conflicts: Checks combinations of values that are valid by themselves.
        settled: Returns why parameters that are not live cannot change now; ``None`` if they can.

    Raises:
        ParameterError: A parameter has the old name of another one, or a read-only one is invalid.
    """
    unused = _unused(node, specs)
    if renamed := {name: new for name in unused if (new := _renamed(name, specs))}:
        raise ParameterError(
            '; '.join(f'the parameter {old} is called {new} now' for old, new in renamed.items())
        )
    for name, spec in specs.items():
        node.declare_parameter(name, spec.default, spec.descriptor())
    for name in unused:
        meant = _similar(name, specs)
        node.get_logger().warning(
            f'there is no parameter {name}; its value has no effect'
            + ''.join(f'. Did you mean {each}?' for each in meant)
        )
    fixed = {name: node.get_parameter(name).value for name, s in specs.items() if s.read_only}
    if problems := _problems(specs, fixed):  # because they cannot be corrected later
        raise ParameterError('; '.join(problems))

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
    """Return the values of the parameters declared with ``specs`` and ``conflicts``.

    Raises:
        ParameterError: Some values are invalid; the message names all of them.
    """
    values = {name: node.get_parameter(name).value for name in specs}
    if problems := _problems(specs, values) or conflicts(values):
        raise ParameterError('; '.join(problems))
    return values


def _unused(node: Node, specs: Mapping[str, Spec]) -> list[str]:
    """Return the names of given parameters that the node does not have."""
    given = node._parameter_overrides  # rclpy shows undeclared ones nowhere else
    return sorted(
        name
        for name in given
        if name not in specs
        and not node.has_parameter(name)  # rclpy's own, such as use_sim_time
        and not name.startswith('qos_overrides.')
    )


def _renamed(name: str, specs: Mapping[str, Spec]) -> str | None:
    new = new_name(name)
    return new if new in specs else None


def _similar(name: str, specs: Mapping[str, Spec]) -> list[str]:
    """Return the parameter that was probably meant: a similar name, or one of that last part."""
    near = difflib.get_close_matches(name, specs, n=1, cutoff=0.8)
    group, _, last = name.rpartition('.')
    same = [each for each in specs if group and each.rpartition('.')[2] == last]
    groups = {each.rpartition('.')[0] for each in same}
    return near or [f'{each}.{last}' for each in difflib.get_close_matches(group, groups, n=1)]


def _problems(specs: Mapping[str, Spec], values: Mapping[str, Any]) -> list[str]:
    """Return the reasons why values are invalid; parameters without a spec are ignored."""
    return [
        f'{name} {problem}, not {quoted(value)}'
        for name, value in values.items()
        if name in specs and (problem := specs[name].problem(value))
    ]
