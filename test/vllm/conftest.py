# SPDX-License-Identifier: Apache-2.0
"""vLLM reads these when it is imported."""

import json
import os
import shutil

import pytest

os.environ.setdefault('VLLM_CPU_KVCACHE_SPACE', '1')  # GiB; by default half of the machine's
os.environ.setdefault('VLLM_NO_USAGE_STATS', '1')
os.environ.setdefault('HF_HUB_OFFLINE', '1')


@pytest.fixture(scope='session')
def penalised_reasoner_dir(overfit_reasoner_dir, tmp_path_factory):
    """The overfit reasoner with a repetition penalty that changes every reply."""
    folder = tmp_path_factory.mktemp('penalised') / 'reasoner'
    shutil.copytree(overfit_reasoner_dir, folder)
    file = folder / 'generation_config.json'
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, 'repetition_penalty': 3.0}))
    return folder
