# SPDX-License-Identifier: Apache-2.0
"""A killed run goes on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

# Times and the trainer's own share of the run differ from run to run; nothing else may.
_TIMES = ('step_time', 'train_runtime')


def learnt(run: Path) -> list[dict[str, Any]]:
    from training.metrics import read_metrics

    return [
        {key: value for key, value in line.items() if key not in _TIMES}
        for line in read_metrics(run)
    ]


@pytest.mark.parametrize('extra', [(), ('lora_rank=4',)], ids=['full', 'lora'])
def test_killed_run_continues_exactly(
    short_grpo: Path, tmp_path: Path, start_training: Any, extra: tuple[str, ...]
) -> None:
    whole = start_training(short_grpo, tmp_path / 'whole', *extra)
    killed = start_training(short_grpo, tmp_path / 'killed', *extra)
    # The picture is drawn in step 4, from answers that checkpoint 2 knows nothing of.
    killed.kill_when(tmp_path / 'killed' / 'samples' / 'step_000004.jsonl')
    resumed = start_training(short_grpo, tmp_path / 'killed', *extra)
    whole.finish()
    assert 'going on from' in resumed.finish()

    expected = learnt(tmp_path / 'whole')
    assert [line['step'] for line in expected] == [1, 2, 3, 4]
    assert learnt(tmp_path / 'killed') == expected
    # It really learnt: what is compared is not the same constant four times.
    assert len({line['grad_norm'] for line in expected}) == 4
    assert expected[3]['kl'] > 0
