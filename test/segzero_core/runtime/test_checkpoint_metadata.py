# SPDX-License-Identifier: Apache-2.0
"""``segzero.json``: the description of a checkpoint."""

import json

import pytest

from segzero_core.errors import ModelLoadError
from segzero_core.runtime.checkpoint_metadata import synthetic_only


@pytest.mark.parametrize(
    ('notes', 'expected'), [(None, False), ({}, False), ({'synthetic_only': True}, True)]
)
def test_a_checkpoint_says_whether_it_knows_synthetic_scenes_only(tmp_path, notes, expected):
    if notes is not None:
        (tmp_path / 'segzero.json').write_text(json.dumps(notes))
    assert synthetic_only(tmp_path) is expected


@pytest.mark.parametrize('value', ['yes', 1, None, []])
def test_any_other_value_is_an_error_that_names_it(tmp_path, value):
    (tmp_path / 'segzero.json').write_text(json.dumps({'synthetic_only': value}))
    with pytest.raises(ModelLoadError, match='true or false') as caught:
        synthetic_only(tmp_path)
    assert f'got {value!r}' in str(caught.value)
