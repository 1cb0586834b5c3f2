# SPDX-License-Identifier: Apache-2.0
"""Starts ROS 2 for a program; everything that can go wrong there is one typed error.

rclpy reports a missing log folder, a broken parameter file or an unknown argument as ``RCLError``,
whose message names source files of rcl. Here each becomes a ``RosStartError`` that says what is
wrong and what to do.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import rclpy
import yaml
from rclpy.exceptions import (
    InvalidHandle,
    NameValidationException,
    ParameterException,
)
from rclpy.logging import LoggingSeverity, set_logger_level
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from segzero_core.errors import RosStartError, SegZeroError
from segzero_core.runtime.program import one_line

MAX_DOMAIN_ID = 232  # the UDP ports of higher ones would exceed 65535

_PLACE = re.compile(r', at /?[^,\s]*\.(?:c|cpp|h|hpp):\d+')  # where in the sources of ROS it is
_PARAMS_FILE = re.compile(r"Couldn't parse params file: '--params-file (?P<file>.*)'\. Error: ")
_ARGUMENT = re.compile(r"Couldn't parse (?P<kind>[\w ]+): '(?P<argument>.*)'\. Error: (?P<why>.*)")
# How arguments are written; what rcl says of them is about its own lexer.
_WRITTEN = {
    'parameter override rule': 'write it as -p NAME:=VALUE',
    'remap rule': 'write it as -r FROM:=TO, with valid ROS names',
}


@contextlib.contextmanager
def ros_context(arguments: Sequence[str] | None) -> Iterator[None]:
    """Initialise ROS 2 for a block, which creates the program's node; shut it down afterwards.

    rclpy installs no signal handlers; see ``stop_event``.

    Args:
        arguments: The command line with the program's name first; None stands for ``sys.argv``.

    Raises:
        RosStartError: ROS cannot be initialised, or a node cannot be created.
    """
    _check_domain_id()
    # rcl would print an additional line about an error that segzero reports.
    set_logger_level('rcl', LoggingSeverity.FATAL)
    try:
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:
        raise RosStartError(_explain(error)) from error
    finally:
        set_logger_level('rcl', LoggingSeverity.UNSET)
    try:
        yield
    finally:
        with contextlib.suppress(InvalidHandle):
            rclpy.try_shutdown()


@contextlib.contextmanager
def creating_node() -> Iterator[None]:
    """Turn what rclpy raises while the block creates a node into a ``RosStartError``.

    Raises:
        RosStartError: The node cannot be created.
    """
    try:
        yield
    except SegZeroError:
        raise
    except (RuntimeError, ParameterException, NameValidationException, ValueError) as error:
        raise RosStartError(_explain(error)) from error


def program_arguments(name: str, args: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return the command line without the part for ROS, and the whole of it for ``ros_context``.

    Args:
        name: The program's.
        args: The words after the program's name; None stands for ``sys.argv[1:]``.

    Raises:
        RosStartError: What stands after ``--ros-args`` cannot be read.
    """
    words = [name, *(sys.argv[1:] if args is None else args)]
    set_logger_level('rcl', LoggingSeverity.FATAL)
    try:
        return remove_ros_args(args=words)[1:], words
    except Exception as error:
        raise RosStartError(_explain(error)) from error
    finally:
        set_logger_level('rcl', LoggingSeverity.UNSET)


def _check_domain_id() -> None:
    text = os.environ.get('ROS_DOMAIN_ID', '')
    if text and not (text.isascii() and text.isdigit() and int(text) <= MAX_DOMAIN_ID):
        raise RosStartError(
            f'ROS_DOMAIN_ID is {text!r}: set it to a number from 0 to {MAX_DOMAIN_ID}, or unset it'
        )


def _explain(error: Exception) -> str:
    """Return the fault and the remedy in one line."""
    text = _PLACE.sub('', one_line(error))
    if 'logging directory' in text or 'log directory' in text:
        return (
            f'ROS cannot write its log files ({text.split(": ", 1)[-1]}): '
            'set ROS_LOG_DIR to a folder that can be written, or HOME'
        )
    if found := _PARAMS_FILE.search(text):
        return _explain_file(found['file'], text[found.end() :])
    if found := _ARGUMENT.search(text):
        how = _WRITTEN.get(found['kind'], found['why'])
        return f'the {found["kind"]} {found["argument"]!r} is not valid: {how}'
    if type(error).__name__ == 'UnknownROSArgsError':
        return f'unknown ROS arguments after --ros-args: {text}'
    return f'ROS does not start: {text}'


def _explain_file(file: str, why: str) -> str:
    """Return the fault of a parameter file; PyYAML is often more precise than rcl."""
    try:
        yaml.safe_load(Path(file).read_text(encoding='utf-8-sig'))
    except OSError as error:
        return f'cannot read the parameter file {file}: {error.strerror}'
    except UnicodeDecodeError:
        return f'the parameter file {file} is not UTF-8 text'
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f', line {mark.line + 1}, column {mark.column + 1}' if mark else ''
        return f'the parameter file {file}{where}: {error.problem}'
    except yaml.YAMLError as error:
        return f'the parameter file {file} is not YAML: {one_line(error)}'
    why = re.sub(r'\bline_num (\d+)', r'line \1', why)
    return f'the parameter file {file}: {why}'
