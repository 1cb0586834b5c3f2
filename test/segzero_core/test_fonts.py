# SPDX-License-Identifier: Apache-2.0
"""Fonts for any script, on the real fonts of the machine or on none."""

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from segzero_core.fonts import DEFAULT_FONT, FontFinder, can_shape, machine_fonts, script
from segzero_core.overlay import draw_overlay
from segzero_core.text_layout import clusters, wrap
from segzero_core.types import Segmentation

CHINESE = '把红色的大杯子拿给我'
OTHER = '找出蓝色方块请放进来'
SCRIPTS = {
    'Chinese': CHINESE,
    'Japanese': '赤いカップをください',
    'Korean': '빨간 컵을 주세요',
    'Arabic': 'أعطني الكوب الأحمر',
    'Hebrew': 'תן לי את הכוס האדומה',
    'Thai': 'ขอแก้วสีแดงใบใหญ่',
    'Hindi': 'मुझे लाल कप दो',
    'Russian': 'дай мне красную кружку',
    'Greek': 'δώσε μου την κούπα',
    'emoji': '🍎🔴',
}


def answer(reasoning=''):
    return Segmentation(np.zeros((48, 400), bool), 1.0, None, (), reasoning, '')


def panel(query, reasoning=''):
    return draw_overlay(np.zeros((48, 400, 3), np.uint8), answer(reasoning), query)[48:]


def text(lines):
    return [''.join(run.text for run in line.runs) for line in lines]


@pytest.mark.parametrize('name', SCRIPTS)
def test_two_sentences_are_two_pictures(name):
    """Whether the machine has fonts or not, letters are never all the same box."""
    letters = SCRIPTS[name]
    backwards = ''.join(reversed(list(clusters(letters))))
    assert not np.array_equal(panel(letters), panel(backwards))


@pytest.mark.parametrize('name', SCRIPTS)
def test_letters_of_installed_fonts_are_drawn(name):
    finder = machine_fonts()
    if any(finder.find(cluster) is None for cluster in clusters(SCRIPTS[name]) if cluster != ' '):
        pytest.skip(f'this machine has no font with {name} letters')
    assert 'U+' not in ''.join(text(wrap(SCRIPTS[name], 20, 300, 9)))


def test_without_a_font_the_code_points_are_written_and_said_once(caplog):
    finder = FontFinder([])
    with caplog.at_level(logging.WARNING):
        lines = wrap(f'{CHINESE} mug', 20, 400, 99, finder)
        wrap(OTHER, 20, 400, 99, finder)
        wrap('กขค', 20, 400, 99, finder)
    written = ' '.join(text(lines)).split()
    assert written == [*(f'U+{ord(letter):04X}' for letter in CHINESE), 'mug']
    assert [record.message.split('install ')[-1] for record in caplog.records] == [
        'fonts-noto-cjk',
        'fonts-noto-core',
    ]


@pytest.mark.parametrize('letters', ['\udce9', '\ue000', '\U0010fffe', '\u0378'])
def test_what_is_no_letter_is_a_code_point(letters, caplog):
    assert text(wrap(letters, 20, 400, 3))[0].strip() == f'U+{ord(letters):04X}'
    assert not caplog.records  # no font would help


def test_control_characters_do_not_reach_the_picture():
    assert text(wrap('a\u202eb\x07c\u200bd', 20, 400, 3)) == ['abcd']


def test_several_threads_draw_at_once():
    finder = FontFinder()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(finder.find, [*'杯ก' * 8, *CHINESE * 4]))
    assert found == [finder.find(each) for each in [*'杯ก' * 8, *CHINESE * 4]]


def test_an_unreadable_font_file_is_passed_over(tmp_path):
    broken = tmp_path / 'broken.ttf'
    broken.write_bytes(b'not a font')
    assert FontFinder([str(broken), str(tmp_path / 'none.ttf')]).find('杯') is None
    assert FontFinder([str(broken)]).find('a') == DEFAULT_FONT


@pytest.mark.parametrize('words', [CHINESE * 9, 'verylongword' * 30, 'แก้ว' * 60, '🍎' * 90])
def test_text_without_spaces_stays_inside_the_panel(words):
    picture = panel(words, words)
    background = picture[0, 0]
    assert (picture[:, -3:] == background).all()
    assert (picture[:, :3] == background).all()


def test_lines_break_at_spaces_first_and_not_before_closing_punctuation():
    finder = machine_fonts()
    assert text(wrap('one two three', 20, 90, 9, finder)) == ['one two', 'three']
    for line in text(wrap('杯，子。' * 20, 20, 130, 99, FontFinder([]))):
        assert line.strip()
    if finder.find('杯') and finder.find('，'):
        lines = text(wrap('杯，子。' * 20, 20, 130, 99, finder))
        assert len(lines) > 5
        assert not [line for line in lines if line[0] in '，。']


def test_too_many_lines_end_in_dots():
    assert text(wrap('word ' * 100, 20, 120, 3))[-1] == '...'


def test_right_to_left_runs_stand_in_the_order_they_are_read():
    finder = machine_fonts()
    if finder.find('ש') is None:
        pytest.skip('this machine has no font with Hebrew letters')
    (line,) = wrap('red שלום (עולם) 42 box', 20, 900, 3, finder)
    assert not line.rtl
    kinds = [(run.text.strip(), run.rtl) for run in line.runs if run.text.strip()]
    assert kinds[0] == ('red', False)
    assert kinds[-1][0].endswith('box')
    hebrew = ''.join(run.text for run in reversed(line.runs) if run.rtl)
    assert hebrew.replace(' ', '') == 'שלום(עולם)'
    (line,) = wrap('שלום red box עולם', 20, 900, 3, finder)
    assert line.rtl
    words = [run.text.strip() for run in line.runs if run.text.strip()]
    assert words == ['עולם', 'red box', 'שלום']


@pytest.mark.parametrize(
    ('letters', 'parts'),
    [
        ('e\u0301a', ['e\u0301', 'a']),
        ('👩\u200d🚒!', ['👩\u200d🚒', '!']),
        ('👍🏽x', ['👍🏽', 'x']),
        ('🇯🇵🇩🇪', ['🇯🇵', '🇩🇪']),
        ('น้ำ', ['น้', 'ำ']),
        ('', []),
    ],
)
def test_marks_and_joiners_stay_with_their_letter(letters, parts):
    assert list(clusters(letters)) == parts


def test_scripts():
    assert [script(each) for each in ('a', '杯', 'ا', '☕\ufe0f', '🍎', '\ue000')] == [
        'LATIN', 'CJK', 'ARABIC', 'EMOJI', 'EMOJI', 'UNKNOWN',
    ]  # fmt: skip


def test_without_libraqm_letters_that_join_are_code_points(monkeypatch, caplog):
    can_shape.cache_clear()
    monkeypatch.setattr('PIL.features.check', lambda name: name != 'raqm')
    try:
        found = [FontFinder().find(letter) for letter in 'اa']
    finally:
        can_shape.cache_clear()
    assert found == [None, DEFAULT_FONT]
    assert 'libraqm0' in caplog.text


def test_a_machine_without_fontconfig_is_searched_by_folder():
    code = "from segzero_core.fonts import FontFinder; print(FontFinder().find('Я'))"
    plain = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    bare = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, env={'PATH': '/none'}
    )
    assert bare.returncode == 0, bare.stderr
    assert (bare.stdout == 'None\n') == (plain.stdout == 'None\n')


@pytest.mark.parametrize('size', [(1, 1), (12, 16), (30, 40), (2000, 3000)])
def test_images_of_any_size_get_a_panel_of_their_width(size):
    image = np.zeros((*size, 3), np.uint8)
    found = Segmentation(np.zeros(size, bool), 1.0, None, (), CHINESE * 3, '')
    drawn = draw_overlay(image, found, 'the mug')
    assert drawn.shape[1] == size[1]
    Image.fromarray(drawn)
