# SPDX-License-Identifier: Apache-2.0
"""Where the files that ship beside the code are: in a checkout or in an installed package."""

from __future__ import annotations

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
