# SPDX-License-Identifier: Apache-2.0
"""The build of the package, by colcon and by pip."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

NAME = 'segzero_ros'


def version() -> str:
    """Return the version, which stands in package.xml because ROS reads it there."""
    manifest = Path('package.xml').read_text(encoding='utf-8')
    found = re.search(r'<version>(.+?)</version>', manifest)
    assert found, 'package.xml names no version'
    return found.group(1)


def requirements(path: Path) -> list[str]:
    """Return the requirements of one file, those of the files it names with ``-r`` included."""
    found: list[str] = []
    for line in path.read_text(encoding='utf-8').splitlines():
        line = line.split('#', 1)[0].strip()
        if line.startswith('-r '):
            found += requirements(path.parent / line.removeprefix('-r ').strip())
        elif line:
            found.append(line)
    return found


def files(folder: str, *patterns: str) -> list[str]:
    """Return the files of ``folder`` (no deeper) that fit one of the patterns."""
    return sorted(str(path) for pattern in patterns for path in Path(folder).glob(pattern))


setup(
    name=NAME,
    version=version(),
    description='A sentence and a camera image in; reasoning, a mask and target points out',
    author='segzero developers',
    maintainer='segzero developers',
    maintainer_email='segzero@users.noreply.github.com',
    license='Apache-2.0',
    python_requires='>=3.10',
    # Named, so that training/ and test/ are never installed: other projects install packages of
    # those names too.
    packages=find_packages(include=['segzero_core', 'segzero_core.*', NAME, f'{NAME}.*']),
    package_data={'segzero_core': ['models/*/*', 'py.typed'], NAME: ['py.typed']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        (f'share/{NAME}/launch', files('launch', '*.launch.py')),
        (f'share/{NAME}/config', files('config', '*.yaml', '*.xml', '*.rviz', '*.json')),
    ],
    # Nothing is required outright: ROS brings numpy and OpenCV by apt, under other names and in
    # other versions than pip would ask for. Without ROS: pip install '.[core]'.
    extras_require={
        **{path.stem: requirements(path) for path in sorted(Path('requirements').glob('*.txt'))},
        'test': ['pytest'],  # what makes colcon run the tests
    },
    entry_points={
        'console_scripts': [
            'segzero = segzero_core.__main__:main',
            'segzero_model_server = segzero_ros.programs:segzero_model_server',
            f'segzero_node = {NAME}.programs:segzero_node',
            f'segzero_ask = {NAME}.programs:segzero_ask',
            f'sim_camera = {NAME}.programs:sim_camera',
            f'segzero_demo = {NAME}.programs:segzero_demo',
            f'segzero_sample_bag = {NAME}.programs:segzero_sample_bag',
        ],
    },
    zip_safe=False,
)
