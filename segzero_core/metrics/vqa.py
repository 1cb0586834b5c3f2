# SPDX-License-Identifier: Apache-2.0
"""Metrics of answers in words: ChartQA's relaxed accuracy, TextVQA's consensus accuracy."""

from __future__ import annotations

import re
from collections.abc import Sequence

from segzero_core.errors import MetricError

_TOLERANCE = 0.05  # as a share of the true number
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        'zero one two three four five six seven eight nine ten'.split()  # noqa: SIM905
    )
} | {'none': '0'}
_ARTICLES = {'a', 'an', 'the'}
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've
    hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't
    mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't
    she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
    someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've
    we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've
    who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
    y'all'd've you'd you'd've you'll you're you've
"""
_MARKS = ';/[]"{}()=+\\_-><@`!'
# Every contraction with one of its apostrophes missing.
_MENDED = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTIONS.split()
    for place in range(len(word))
    if word[place] == "'"
} | {"somebody'd": 'somebodyd'}  # reversed in the original


def relaxed_accuracy(answer: str, truth: str) -> float:
    """Return 1 for a number within 5 % of the true one, or for the same words; else 0.

    Percentages are read as hundredths, and case is ignored (ChartQA, arXiv 2203.10244). As in its
    original evaluation, ``1,000`` is not a number.
    """
    found, true = _number(answer), _number(truth)
    if found is not None and true:
        # The original's order of operations: rounding can turn exactly 5 % into slightly more.
        return float(abs(found - true) / abs(true) <= _TOLERANCE)
    return float(answer.strip().lower() == truth.strip().lower())


def consensus_accuracy(answer: str, truths: Sequence[str]) -> float:
    """Return VQA's accuracy, used by TextVQA: 1 if at least three of ten people agree.

    The mean of ``min(1, agreeing / 3)`` over all subsets that leave one person out (arXiv
    1505.00468). Case, punctuation, articles, missing apostrophes and the spelling of small numbers
    are normalised exactly as in TextVQA's evaluation (MMF's ``EvalAIAnswerProcessor``).

    Raises:
        MetricError: There is no true answer.
    """
    if not truths:
        raise MetricError('there is no answer to compare with')
    wanted = _plain(answer)
    agreed = [_plain(truth) == wanted for truth in truths]
    if len(agreed) == 1:
        return float(agreed[0])
    return sum(min(1.0, (sum(agreed) - one) / 3) for one in agreed) / len(agreed)


def written_answer(text: str) -> str:
    """Return the answer in a model's text: the content of its answer tags, if there are any."""
    found = re.findall(r'<answer>(.*?)(?:</answer>|$)', text, re.DOTALL | re.IGNORECASE)
    return (found[-1] if found else text).strip().removesuffix('.')


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        return float(text.rstrip('%')) / 100 if text.endswith('%') else float(text)
    except ValueError:
        return None


def _plain(text: str) -> str:
    text = text.lower().replace(',', '').replace('?', '').replace("'s", " 's")
    text = given = text.strip().replace('\n', ' ').replace('\t', ' ')
    for mark in _MARKS:
        next_to_space = f'{mark} ' in given or f' {mark}' in given
        text = text.replace(mark, '' if next_to_space else ' ')
    text = re.sub(r'\.(?!\d)', '', text, count=32)
    words = (_NUMBERS.get(word, word) for word in text.split())
    return ' '.join(_MENDED.get(word, word) for word in words if word not in _ARTICLES)
