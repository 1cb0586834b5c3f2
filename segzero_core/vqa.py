# SPDX-License-Identifier: Apache-2.0
"""How good an answer in words is: ChartQA's relaxed accuracy and TextVQA's soft one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from segzero_core.errors import MetricError

_TOLERANCE = 0.05  # of the true number
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        'zero one two three four five six seven eight nine ten'.split()  # noqa: SIM905
    )
}
_ARTICLES = {'a', 'an', 'the'}


def relaxed_accuracy(answer: str, truth: str) -> float:
    """Return 1 for a number within 5 % of the true one, or for the same words; else 0.

    Percentages are read as hundredths, case counts for nothing (ChartQA, arXiv 2203.10244).
    """
    found, true = _number(answer), _number(truth)
    if found is not None and true:
        return float(abs(found - true) <= _TOLERANCE * abs(true))
    return float(answer.strip().lower() == truth.strip().lower())


def consensus_accuracy(answer: str, truths: Sequence[str]) -> float:
    """Return how many of ten people agree, three being enough: VQA's accuracy, used by TextVQA.

    The mean of ``min(1, agreeing / 3)`` over all choices of all people but one (arXiv 1505.00468).
    Case, punctuation, articles and whether small numbers are spelt out count for nothing.

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
    """Return the answer in a model's text: within its answer tags, if it wrote any."""
    found = re.findall(r'<answer>(.*?)(?:</answer>|$)', text, re.DOTALL | re.IGNORECASE)
    return (found[-1] if found else text).strip().removesuffix('.')


def _number(text: str) -> float | None:
    text = text.strip().replace(',', '')
    try:
        return float(text[:-1]) / 100 if text.endswith('%') else float(text)
    except ValueError:
        return None


def _plain(text: str) -> str:
    text = re.sub(r"[^\w\s.:%/$-]|'", '', text.lower())
    text = re.sub(r'(?<!\d)[.:]|[.:](?!\d)', ' ', text)  # 3.5 and 10:30 stay as they are
    words = (_NUMBERS.get(word, word) for word in text.split() if word not in _ARTICLES)
    return ' '.join(words)
