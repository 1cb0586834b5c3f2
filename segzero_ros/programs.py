# SPDX-License-Identifier: Apache-2.0
"""The entry points of the ROS programs.

They are separate from the programs, so that the signal handlers are set before a program's
imports, which take seconds. See ``segzero_core.runtime.program``.
"""

from __future__ import annotations

from segzero_core.runtime.program import run_program


def segzero_node() -> int:
    """Run the node ``segzero``."""
    return run_program('segzero_node', 'segzero_ros.node:main', service=True)


def segzero_ask() -> int:
    """Ask a running node one sentence."""
    return run_program('segzero_ask', 'segzero_ros.ask:main')


def sim_camera() -> int:
    """Run the simulated camera."""
    return run_program('sim_camera', 'segzero_ros.sim_camera:main', service=True)


def segzero_demo() -> int:
    """Run the demo."""
    return run_program('segzero_demo', 'segzero_ros.demo:main')


def segzero_sample_bag() -> int:
    """Write or play a bag."""
    return run_program('segzero_sample_bag', 'segzero_ros.sample_bag:main')


def segzero_model_server() -> int:
    """Run a model server and end all of its processes when it ends."""
    return run_program('segzero_model_server', 'segzero_ros.run_server:main', service=True)
