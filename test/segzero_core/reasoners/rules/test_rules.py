# SPDX-License-Identifier: Apache-2.0
"""The rules reasoner: parsing, vision, replies, and robustness to any input."""

import threading

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segzero_core import SegZero, load_reasoner, load_segmenter
from segzero_core.answers.parse import parse_answer
from segzero_core.errors import AnswerError, CancelledError, UnknownNameError
from segzero_core.geometry import box_iou, mask_to_box, rescale_box, rescale_point
from segzero_core.metrics.masks import image_ious, overlap
from segzero_core.prompts import FAMILIES
from segzero_core.reasoners.rules import RulesReasoner
from segzero_core.reasoners.rules.grammar import Exclusion, parse
from segzero_core.reasoners.rules.match import describe
from segzero_core.reasoners.rules.reasoner import read_request
from segzero_core.reasoners.rules.vision import look
from segzero_core.synthetic import KINDS, make_scene
from segzero_core.types import Box, Size, image_size

TABLE = (150, 145, 140)
RED, BLUE, GREEN = (200, 30, 35), (35, 80, 190), (40, 140, 60)


@pytest.fixture(scope='module')
def reasoner():
    return RulesReasoner()


def picture(*discs, size=(480, 640)):
    """A plain table with round things (x, y, radius, colour)."""
    image = np.full((*size, 3), TABLE, np.uint8)
    for x, y, radius, colour in discs:
        cv2.circle(image, (x, y), radius, colour, cv2.FILLED)
    noise = np.random.default_rng(0).normal(0, 3, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def answer_of(reasoner, image, sentence):
    text = reasoner.reason(image, sentence).text
    size = image_size(image)
    answer = parse_answer(text, reasoner.task.answer_size(size))
    assert answer.repairs == (), 'the answer was not clean'
    return answer


def box_of(reasoner, image, sentence):
    size = image_size(image)
    answer = answer_of(reasoner, image, sentence)
    return rescale_box(answer.box, reasoner.task.answer_size(size), size)


def centre_of(reasoner, image, sentence):
    box = box_of(reasoner, image, sentence)
    return (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2


# -- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('sentence', 'expected'),
    [
        ('the red mug', {'colours': {'red'}, 'shapes': {'mug'}}),
        ('Please pick up the RED cup!', {'colours': {'red'}, 'shapes': {'mug'}}),
        ('a crimson sphere', {'colours': {'red'}, 'shapes': {'ball'}}),
        ('the little blue box', {'colours': {'blue'}, 'shapes': {'box'}, 'size': 'small'}),
        ('the red or blue ball', {'colours': {'red', 'blue'}, 'shapes': {'ball'}}),
        ('the leftmost bottle', {'shapes': {'bottle'}, 'extreme': 'left'}),
        ('the can on the right', {'shapes': {'can'}, 'extreme': 'right'}),
        ('the ring closest to the camera', {'shapes': {'ring'}, 'extreme': 'near'}),
        ('the thing furthest away from me', {'extreme': 'far'}),
        ('the biggest green thing', {'colours': {'green'}, 'extreme': 'large'}),
        ('the tin', {'shapes': {'can'}}),
        ('the red can', {'shapes': {'can'}, 'colours': {'red'}}),
    ],
)
def test_attributes_are_read(sentence, expected):
    request = parse(sentence)
    defaults = {'colours': set(), 'shapes': set(), 'size': '', 'extreme': ''}
    for name, value in (defaults | expected).items():
        assert getattr(request, name) == value, name
    assert request.understood
    assert not request.relation
    assert request.excluded == []


@pytest.mark.parametrize(
    ('sentence', 'relation', 'anchor_colour', 'anchor_shape'),
    [
        ('the thing left of the blue box', 'left', 'blue', 'box'),
        ('the mug to the right of the red can', 'right', 'red', 'can'),
        ("what's on the left side of the green ball", 'left', 'green', 'ball'),
        ('the cup behind the yellow cone', 'behind', 'yellow', 'cone'),
        ('the cup in front of the black ring', 'front', 'black', 'ring'),
        ('the object nearest to the pink bowl', 'near', 'pink', 'bowl'),
        ('the object next to the pink bowl', 'near', 'pink', 'bowl'),
    ],
)
def test_relations_are_read(sentence, relation, anchor_colour, anchor_shape):
    request = parse(sentence)
    assert request.relation == relation
    assert request.anchor.colours == {anchor_colour}
    assert request.anchor.shapes == {anchor_shape}
    assert not request.colours
    assert not request.extreme


@pytest.mark.parametrize(
    ('sentence', 'excluded'),
    [
        ('the mug that is not red', [({'red'}, set())]),
        ("the mug that isn't red", [({'red'}, set())]),
        ('the non-red mug', [({'red'}, set())]),
        ('the mug that is neither red nor blue', [({'red'}, set()), ({'blue'}, set())]),
        ('everything but the red ball', [({'red'}, {'ball'})]),
        ('a thing other than a ball', [(set(), {'ball'})]),
    ],
)
def test_exclusions_are_read(sentence, excluded):
    request = parse(sentence)
    assert request.excluded == [
        Exclusion(frozenset(colours), frozenset(shapes)) for colours, shapes in excluded
    ]
    assert not request.colours
    assert request.shapes == ({'mug'} if 'mug' in sentence else set())


@pytest.mark.parametrize(
    ('sentence', 'best'),
    [
        ('something I can drink from', 'mug'),
        ('something to pour lemonade from', 'bottle'),
        ('something to hold soup', 'bowl'),
        ('what could I throw for my dog?', 'ball'),
        ('something to pack a present in', 'box'),
        ('where are the canned beans', 'can'),
        ('I need a container to put things in', 'bowl'),
    ],
)
def test_purposes_are_read(sentence, best):
    request = parse(sentence)
    assert max(request.serves, key=request.serves.get) == best
    assert not request.shapes, '"can" is a verb here'


@pytest.mark.parametrize(
    ('sentence', 'words'),
    [
        ('the second largest mug', ['second']),
        ('the 2nd largest mug', ['2nd']),
        ('the largest but one', ['but']),
        ('the thing larger than the red ball', ['than']),
        ('the ball in the red bowl', ['in']),
        ('the mug on the box', ['on']),
        ('the thing left of the shiny box', ['shiny']),
        ('the hot mug', ['hot']),
        ('something that is not for drinking', ['drinking']),
        ('the mug without a handle', ['handle']),
        ('find my computer', ['computer']),  # it has "put" in it
        ('all red balls', ['all']),
        ('le gobelet rouge', ['le', 'gobelet', 'rouge']),
        ('红色的杯子', ['红色的杯子']),
        ('the \N{LARGE RED CIRCLE} ball', ['\N{LARGE RED CIRCLE}']),
    ],
)
def test_words_it_does_not_know_are_named_and_refused(reasoner, sentence, words):
    assert list(parse(sentence).unknown_words()) == words
    with pytest.raises(AnswerError) as caught:
        reasoner.reason(picture((200, 240, 50, RED)), sentence)
    assert caught.value.kind == 'unknown_word'
    for word in words:
        assert repr(word) in str(caught.value)
    assert 'leftmost' in str(caught.value), 'it says which words it knows'
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('sentence', ['hello', '', '...', 'please', 'find the'])
def test_a_sentence_that_names_nothing_is_refused(sentence):
    with pytest.raises(AnswerError, match='no word in') as caught:
        read_request(sentence)
    assert caught.value.kind == 'unknown_word'


@pytest.mark.parametrize(
    'sentence',
    [
        'Hello robot, could you hand me the red mug, please?',
        "I'd like something to eat cereal from",
        'the mug on the table',
        'the mug with the handle',
        'the blue one in the picture',
        "what's behind the box?",
        'I am looking for the leftmost bottle, thanks!',
    ],
)
def test_manners_and_articles_are_no_obstacle(sentence):
    assert read_request(sentence).understood


def test_every_synthetic_sentence_is_known():
    sentences = [q.text for seed in range(40) for q in make_scene(seed, Size(80, 60)).queries()]
    assert len(sentences) > 1500
    for sentence in sentences:
        read_request(sentence)


def test_in_a_batch_one_unknown_word_costs_one_answer():
    image = picture((200, 240, 50, RED), (450, 240, 50, BLUE))
    with SegZero(load_reasoner('rules'), load_segmenter('grabcut')) as segzero:
        first, second, third = segzero.answer_all(
            image, ['the red ball', 'the second largest ball', 'the blue ball']
        )
    assert second.kind == 'unknown_word'
    assert first.mask[240, 200]
    assert third.mask[240, 450]


# -- seeing and answering ----------------------------------------------------------------------


def test_the_box_and_the_points_are_those_of_the_thing(reasoner):
    image = picture((200, 240, 50, RED), (450, 240, 50, BLUE))
    answer = answer_of(reasoner, image, 'the blue thing')
    space, size = reasoner.task.answer_size(image_size(image)), image_size(image)
    assert box_iou(rescale_box(answer.box, space, size), Box(400, 190, 500, 290)) > 0.93
    first, second = (rescale_point(point, space, size) for point in answer.points)
    assert np.hypot(first.x - 450, first.y - 240) < 6, 'the largest inscribed circle'
    for point in (first, second):
        assert np.hypot(point.x - 450, point.y - 240) < 52, 'on the disc, give or take rounding'


@pytest.mark.parametrize('family', list(FAMILIES))
def test_answers_are_written_in_the_space_of_the_family(family):
    image = picture((200, 240, 50, RED), size=(480, 640))
    reasoner = load_reasoner('rules', family=family)
    assert reasoner.task.family is FAMILIES[family]
    assert box_iou(box_of(reasoner, image, 'the red ball'), Box(150, 190, 250, 290)) > 0.93


def test_unknown_families_are_refused():
    with pytest.raises(UnknownNameError, match='json'):
        RulesReasoner(family='jsno')


@pytest.mark.parametrize(
    ('sentence', 'x', 'y'),
    [
        ('the red ball left of the blue ball', 120, 150),
        ('the red ball right of the blue ball', 520, 160),
        ('the leftmost ball', 120, 150),
        ('the thing in front of the blue ball', 330, 400),
        ('the smallest red thing', 120, 150),
        ('the biggest red thing', 520, 160),
        ('the ball that is neither red nor blue', 330, 400),
        ('the only thing that is not red or blue', 330, 400),
        ('the nearest ball', 330, 400),
        ('the green thing that is not a box', 330, 400),
    ],
)
def test_words_choose_the_right_thing(reasoner, sentence, x, y):
    image = picture(
        (120, 150, 30, RED), (320, 220, 40, BLUE), (520, 160, 55, RED), (330, 400, 40, GREEN)
    )
    found = centre_of(reasoner, image, sentence)
    assert np.hypot(found[0] - x, found[1] - y) < 6


@pytest.mark.parametrize(
    'sentence', ['the yellow ball', 'the purple ring', 'the thing left of the mug']
)
def test_nothing_found_is_said(reasoner, sentence):
    image = picture((200, 240, 50, RED), (450, 240, 50, BLUE))
    text = reasoner.reason(image, sentence).text
    assert text.endswith('<answer>{}</answer>')
    with pytest.raises(AnswerError) as caught:
        parse_answer(text, Size(840, 840))
    assert caught.value.kind == 'nothing_found'
    assert 'nothing matches' in text


def test_an_empty_table_holds_nothing(reasoner):
    text = reasoner.reason(picture(), 'the thing').text
    assert 'I see nothing' in text
    assert text.endswith('<answer>{}</answer>')


def test_it_sees_the_same_in_small_and_large_pictures(reasoner):
    scene = make_scene(2)
    wide = mask_to_box(scene.mask(3))
    query = f'the {scene.objects[3].colour} {scene.objects[3].shape}'
    for factor in (0.5, 1, 3):
        image = cv2.resize(scene.image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        box = box_of(reasoner, image, query)
        assert box_iou(Box(*(value / factor for value in box)), wide) > 0.85


def test_the_reasoning_names_what_was_seen_and_decided(reasoner):
    image = picture((200, 240, 50, RED), (450, 240, 50, BLUE))
    reasoning = answer_of(reasoner, image, 'the ball right of the red ball').reasoning
    for words in ('2 separate things', 'red ball', 'blue ball', 'best fit', 'compared with'):
        assert words in reasoning


# -- accuracy on seeds that were tuned on; the held-out figure is in benchmarks/ ------------------


def test_it_finds_most_things_on_synthetic_tables(reasoner):
    asked = dict.fromkeys(KINDS, 0)
    right = dict.fromkeys(KINDS, 0)
    for seed in range(12):
        scene = make_scene(seed)
        chosen = {query.kind: query for query in scene.queries()}
        for kind, query in chosen.items():
            asked[kind] += 1
            try:
                box = box_of(reasoner, scene.image, query.text)
            except AnswerError:
                continue
            right[kind] += box_iou(box, mask_to_box(scene.mask(query.target))) > 0.7
    assert right['attribute'] >= 0.95 * asked['attribute'], right
    assert sum(right.values()) >= 0.9 * sum(asked.values()), right


def test_it_tells_apart_and_names_things_that_hide_parts_of_one_another():
    things, found, hidden, named = 0, 0, 0, 0
    for seed in range(12):
        scene = make_scene(seed, colours=('red', 'blue'), crowding=1.0)
        view = look(scene.image)
        for i, item in enumerate(scene.objects):
            if item.visible < 0.7:  # no sentence asks for it
                continue
            ious = image_ious([overlap(region, scene.mask(i)) for region in view.regions])
            things += 1
            if ious.max() > 0.5:
                found += 1
                if item.visible < 0.97:
                    hidden += 1
                    named += describe(view.image, view.regions[ious.argmax()]).shape == item.shape
    assert things > 50
    assert found >= 0.85 * things
    assert hidden > 10
    assert named >= 0.8 * hidden


# -- manners -----------------------------------------------------------------------------------


def test_text_comes_in_pieces_that_make_up_the_whole(reasoner):
    pieces = []
    text = reasoner.reason(picture((200, 240, 50, RED)), 'the red ball', pieces.append).text
    assert ''.join(pieces) == text
    assert len(pieces) > 10
    assert text.startswith('<think>')


def test_a_set_cancel_stops_before_any_text(reasoner):
    cancel, pieces = threading.Event(), []
    cancel.set()
    with pytest.raises(CancelledError):
        reasoner.reason(picture((200, 240, 50, RED)), 'the red ball', pieces.append, cancel)
    assert pieces == []


def test_cancel_stops_in_the_middle_of_the_text(reasoner):
    cancel, pieces = threading.Event(), []

    def listen(piece):
        pieces.append(piece)
        if len(pieces) == 3:
            cancel.set()

    with pytest.raises(CancelledError):
        reasoner.reason(picture((200, 240, 50, RED)), 'the red ball', listen, cancel)
    assert len(pieces) == 3


def test_the_same_question_has_the_same_answer(reasoner):
    scene = make_scene(9)
    texts = {reasoner.reason(scene.image, 'the leftmost thing').text for _ in range(3)}
    assert len(texts) == 1


WORDS = (
    'the red mug can not left of right nearest closest to next behind in front or nor neither '
    'small biggest thing box drink but except non other than from camera'
)


@st.composite
def odd_images(draw):
    height, width = draw(st.sampled_from([(1, 1), (1, 40), (40, 1), (2, 3), (24, 37), (230, 210)]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    kind = draw(st.sampled_from(['noise', 'black', 'white', 'two', 'blocks', 'grey', 'ramp']))
    if kind == 'noise':
        image = rng.integers(0, 256, (height, width, 3))
    elif kind in ('black', 'white'):
        image = np.full((height, width, 3), 255 * (kind == 'white'))
    elif kind == 'two':
        image = np.repeat(rng.integers(0, 2, (height, width, 1)) * 255, 3, axis=2)
    elif kind == 'blocks':
        few = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3))
        image = np.kron(few, np.ones((16, 16, 1)))[:height, :width]
    elif kind == 'grey':
        image = np.repeat(rng.integers(90, 110, (height, width, 1)), 3, axis=2)
        image[height // 4 : height // 2, width // 4 : width // 2] = rng.integers(0, 256, 3)
    else:
        image = np.linspace(0, 255, height * width * 3).reshape(height, width, 3)
    return image.astype(np.uint8)


sentences = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from(WORDS.split()),
        max_size=14,
    ).map(' '.join),
)


def test_a_piece_of_nothing_but_small_lobes_stays_whole():
    """Noise of two colours: no lobe of such a piece is large enough to be a thing."""
    for seed in (3, 21, 22, 33):
        rng = np.random.default_rng(seed)
        dots = np.repeat(rng.integers(0, 2, (230, 210, 1)) * 255, 3, axis=2).astype(np.uint8)
        assert RulesReasoner().reason(dots, 'the ball').text


@settings(max_examples=120)
@given(odd_images(), sentences)
def test_no_image_and_no_sentence_break_it(image, sentence):
    reasoner = RulesReasoner()
    try:
        text = reasoner.reason(image, sentence).text
    except AnswerError as error:
        if error.kind != 'unknown_word':
            raise
        return
    if not text.endswith('<answer>{}</answer>'):
        answer = parse_answer(text, reasoner.task.answer_size(image_size(image)))
        assert answer.repairs == ()
