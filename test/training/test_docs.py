# SPDX-License-Identifier: Apache-2.0
"""The commands of the documentation are ones that the programs understand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from training import evaluate, make_synthetic_set, prepare_data, report
from training.config import load_config
from training.evaluation.options import make_config
from training.tiny_recipe.train import read_settings

pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/evaluate.txt')

ROOT = Path(__file__).parents[2]
PARSERS = {
    'evaluate': evaluate.make_parser,
    'make_synthetic_set': make_synthetic_set.make_parser,
    'prepare_data': prepare_data.make_parser,
    'report': report.make_parser,
}
VARIABLES = {'$data': 'refcoco:val', '$model': '--model tiny', '$ROW': 'grpo'}


def commands() -> list[tuple[str, list[str]]]:
    """Return the program and the arguments of each command in a block of shell, or in a line."""
    found = []
    for page in [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]:
        text = page.read_text(encoding='utf-8')
        blocks = re.findall(r'```sh\n(.*?)```', text, re.DOTALL)
        blocks += [' '.join(words.split()) for words in re.findall(r'`(python [^`]+)`', text)]
        for block in blocks:
            for line in block.replace('\\\n', ' ').splitlines():
                for variable, value in VARIABLES.items():
                    line = line.replace(variable, value)
                if parts := re.search(r'training/([\w/]+)\.py (.*)', line.removesuffix('; do')):
                    words = shlex.split(parts[2], comments=True)
                    found.append((parts[1], [word for word in words if word != '...']))
    return found


@pytest.mark.parametrize(('program', 'arguments'), commands())
def test_commands_are_understood(
    program: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    if program == 'evaluate':
        flags = vars(evaluate.make_parser().parse_args(arguments))
        make_config(flags.pop('config', None), flags)
    elif program in PARSERS:
        PARSERS[program]().parse_args(arguments)
    elif program == 'train':
        file = Path(arguments[1])
        assert arguments[0] == '--config'
        load_config(file, arguments[2:])
    elif program == 'tiny_recipe/train':
        read_settings(Path(arguments[1]), arguments[2:])


def test_there_are_commands_of_every_program() -> None:
    assert {*PARSERS, 'train', 'plot', 'tiny_recipe/train'} <= {
        program for program, _ in commands()
    }
