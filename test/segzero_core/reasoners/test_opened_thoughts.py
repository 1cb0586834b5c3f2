# SPDX-License-Identifier: Apache-2.0
"""Chat templates that open a thought, with the embedded model: the reply lacks the first tag."""

import shutil

import pytest

pytest.importorskip('torch', reason='needs requirements/models.txt')

from segzero_core import SegZero, load_reasoner, load_segmenter
from segzero_core.reasoners.streaming import opens_thought
from segzero_core.runtime.checkpoints import find_checkpoint
from segzero_core.synthetic import make_scene

SCENE = make_scene(11)
QUERIES = [query.text for query in SCENE.queries()][:2]


@pytest.fixture(scope='module')
def replies():
    """The text that the embedded model writes if its reply begins with the tag."""
    engine = load_reasoner('transformers', model='tiny', device='cpu', thinking='prefilled')
    found = engine.reason_batch([SCENE.image] * 2, QUERIES)
    engine.close()
    return [reply.text for reply in found]


@pytest.fixture(scope='module')
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp('opened') / 'model'
    shutil.copytree(find_checkpoint('tiny'), folder)
    template = folder / 'chat_template.jinja'
    text = template.read_text()
    template.write_text(text + "{% if add_generation_prompt %}{{ '<think>' }}{% endif %}")
    engine = load_reasoner('transformers', model=str(folder), device='cpu')
    yield engine
    engine.close()


def test_the_reply_has_its_thoughts_between_tags(engine, replies):
    assert opens_thought(engine.prompt(QUERIES[0]))
    pieces = []
    reply = engine.reason(SCENE.image, QUERIES[0], pieces.append)
    assert reply.text == ''.join(pieces) == replies[0]
    assert reply.text.startswith('<think>')
    assert reply.finish_reason == 'stop'
    assert [each.text for each in engine.reason_batch([SCENE.image] * 2, QUERIES)] == replies


def test_the_pipeline_reads_reasoning_and_answer(engine, replies):
    with SegZero(engine, load_segmenter('grabcut')) as segzero:
        found = segzero(SCENE.image, QUERIES[0])
    assert found.reasoning == replies[0].partition('</think>')[0].removeprefix('<think>').strip()
    assert found.repairs == ()


@pytest.mark.parametrize(
    ('options', 'reason'),
    [({'max_new_tokens': 3}, 'length'), ({'max_new_tokens': 400}, 'stop')],
)
def test_a_reply_says_why_it_ended_and_how_long_it_is(options, reason):
    engine = load_reasoner('transformers', model='tiny', device='cpu', **options)
    try:
        for reply in (engine.reason(SCENE.image, QUERIES[0]),
                      *engine.reason_batch([SCENE.image] * 2, QUERIES)):  # fmt: skip
            assert reply.finish_reason == reason
            assert 0 < reply.tokens <= options['max_new_tokens']
            assert (reply.tokens == options['max_new_tokens']) == (reason == 'length')
    finally:
        engine.close()
