# SPDX-License-Identifier: Apache-2.0
"""Old names of options, in every style of writing, and as options of real engines."""

import inspect

import pytest

from segzero_core import load_segmenter
from segzero_core.errors import EngineOptionError
from segzero_core.reasoners import REASONERS
from segzero_core.reasoners.openai import OpenAIReasoner
from segzero_core.registry import create_engine
from segzero_core.renamed import RENAMED_OPTIONS, new_name


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        ('guided', 'structured_output'),
        ('reasoner.guided', 'reasoner.structured_output'),
        ('segmenter.compiled', 'segmenter.torch_compile'),
        ('--memory-share', '--gpu-memory-utilization'),
        ('--drafts', '--num-draft-tokens'),
        ('model', None),
        ('reasoner.model', None),
        ('', None),
        ('--', None),
    ],
)
def test_new_name(old, new):
    assert new_name(old) == new


def test_no_name_is_old_and_new():
    assert not set(RENAMED_OPTIONS) & set(RENAMED_OPTIONS.values())


def test_an_old_option_is_an_error_that_names_the_new_one():
    with pytest.raises(EngineOptionError, match=r"no option 'guided'.*'structured_output' now"):
        create_engine('reasoner', REASONERS, 'openai', {'guided': True})
    assert 'structured_output' in inspect.signature(OpenAIReasoner).parameters


def test_an_engine_that_has_neither_name_does_not_offer_the_new_one():
    with pytest.raises(EngineOptionError, match="no option 'drafts'") as caught:
        load_segmenter('grabcut', drafts=3)
    assert 'num_draft_tokens' not in str(caught.value)
