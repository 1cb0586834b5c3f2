# SPDX-License-Identifier: Apache-2.0
"""Text while it is generated is the text of all tokens."""

from functools import partial

import pytest

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')
pytest.importorskip('transformers', reason='needs transformers: see requirements/models.txt')

from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from segzero_core.reasoners.decode.detokenizer import Detokenizer

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def tokenizer(tiny_reasoner_dir):
    return AutoTokenizer.from_pretrained(tiny_reasoner_dir)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_streaming_any_tokens_gives_what_decoding_them_at_once_gives(tokenizer, data):
    any_text = st.text(max_size=20).map(lambda text: tokenizer(text).input_ids)
    any_tokens = st.lists(st.integers(0, len(tokenizer) - 1), max_size=20)
    written = [
        token for part in data.draw(st.lists(any_text | any_tokens, max_size=4)) for token in part
    ]
    wanted = tokenizer.decode(written, skip_special_tokens=True)
    text = Detokenizer(partial(tokenizer.decode, skip_special_tokens=True))
    assert ''.join([text.add(token) for token in written]) + text.flush() == wanted
