# SPDX-License-Identifier: Apache-2.0
import sys
from types import ModuleType

import pytest

from segzero_core.memory import device_memory


@pytest.mark.parametrize('imported', [[], ['cuda']])
def test_a_torch_that_is_just_being_imported_has_no_devices_yet(monkeypatch, imported):
    torch = ModuleType('torch')
    for name in imported:
        setattr(torch, name, ModuleType(f'torch.{name}'))
    monkeypatch.setitem(sys.modules, 'torch', torch)
    assert device_memory() == {}
