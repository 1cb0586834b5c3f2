# SPDX-License-Identifier: Apache-2.0
"""Hub ids with a revision, from a cache as huggingface_hub lays it out; nothing is downloaded."""

import pytest

pytest.importorskip('transformers', reason='needs transformers: requirements/models.txt')

from segzero_core.errors import ModelLoadError
from segzero_core.runtime.checkpoints import find_checkpoint

COMMITS = {'main': 'a' * 40, 'v1.0': 'b' * 40}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with two revisions of one model, and no network."""
    for name, commit in COMMITS.items():
        ref = tmp_path / 'models--someone--model' / 'refs' / name
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit)
        snapshot = tmp_path / 'models--someone--model' / 'snapshots' / commit
        snapshot.mkdir(parents=True)
        (snapshot / 'config.json').write_text('{}')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)


@pytest.mark.usefixtures('cache')
@pytest.mark.parametrize(
    ('model', 'commit'),
    [
        ('someone/model', COMMITS['main']),
        ('someone/model@main', COMMITS['main']),
        ('someone/model@v1.0', COMMITS['v1.0']),
        (f'someone/model@{COMMITS["v1.0"]}', COMMITS['v1.0']),
    ],
)
def test_a_revision_of_a_hub_model_can_be_pinned(model, commit):
    assert find_checkpoint(model).name == commit


@pytest.mark.usefixtures('cache')
@pytest.mark.parametrize('model', ['someone/model@v2.0', 'someone/other@v1.0'])
def test_a_revision_that_is_not_there_is_an_error(model):
    with pytest.raises(ModelLoadError, match=model):
        find_checkpoint(model)
