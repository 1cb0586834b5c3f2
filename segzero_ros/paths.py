# SPDX-License-Identifier: Apache-2.0
"""Finds the configuration files, in a checkout or in an installed package."""

from __future__ import annotations

import os
from pathlib import Path


def config_file(name: str) -> Path:
    """Return the path of ``config/NAME``.

    Raises:
        FileNotFoundError: Neither the checkout nor the installed package has it.
    """
    checkout = Path(__file__).resolve().parent.parent / 'config' / name
    if checkout.is_file():
        return checkout
    # Only an installed package needs the ament index; the ROS wheels may not have one set up.
    from ament_index_python.packages import get_package_share_directory

    installed = Path(get_package_share_directory('segzero_ros')) / 'config' / name
    if not installed.is_file():
        raise FileNotFoundError(f'no {checkout} and no {installed}')
    return installed


def use_fastdds_profile() -> None:
    """Let Fast DDS use the shared-memory profile, unless the user has set another.

    Must be called before ``rclpy.init``; child processes inherit it.
    """
    new, old = 'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'
    if new not in os.environ and old not in os.environ:
        # Kilted and later warn about the old name, Jazzy does not know the new one.
        name = old if os.environ.get('ROS_DISTRO') in ('humble', 'jazzy') else new
        os.environ[name] = str(config_file('fastdds.xml'))
