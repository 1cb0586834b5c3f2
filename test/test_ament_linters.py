# SPDX-License-Identifier: Apache-2.0
"""ROS 2's own linters, where they are installed: with the rules that ruff holds the code to.

Not ament_copyright: it knows no SPDX identifiers, which is what our files begin with.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = ['segzero_core', 'segzero_ros', 'training', 'launch', 'benchmarks', 'setup.py']
REASON = 'needs ROS 2: sudo apt install ros-$ROS_DISTRO-ament-lint-auto'


@pytest.fixture(autouse=True)
def checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_flake8(capfd: pytest.CaptureFixture[str]) -> None:
    linter = pytest.importorskip('ament_flake8.main', reason=REASON)
    assert linter.main(['--config', 'setup.cfg', *CODE, 'test']) == 0, capfd.readouterr()


def test_pep257(capfd: pytest.CaptureFixture[str]) -> None:
    linter = pytest.importorskip('ament_pep257.main', reason=REASON)
    # As in pyproject.toml; and a docstring that ends in `objects[i]` is no signature.
    exceptions = ['--convention', 'google', '--add-ignore', 'D103', 'D105', 'D107', 'D402', '--']
    assert linter.main([*exceptions, *CODE]) == 0, capfd.readouterr()


def test_xmllint(capfd: pytest.CaptureFixture[str]) -> None:
    linter = pytest.importorskip('ament_xmllint.main', reason=REASON)
    if not shutil.which('xmllint'):
        pytest.skip('needs xmllint: sudo apt install libxml2-utils')
    assert linter.main(['config', 'deploy']) == 0, capfd.readouterr()
    valid = linter.main(['package.xml']) == 0
    said = capfd.readouterr()
    if 'failed to load external entity' in said.err:
        pytest.skip('needs the schema of package.xml from download.ros.org')
    assert valid, said
