# SPDX-License-Identifier: Apache-2.0
"""The cost of a GRPO step, compared with TRL's trainer used as in its examples.

``python benchmarks/grpo_step.py``: the same tiny model, scenes, settings and rewards, each in
separate processes, in turn. Reports medians over steps and peak memory, and their ratios.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from peak import peak_megabytes

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = """\
method: grpo
data: synthetic:train?kinds=attribute&count=32
image_size: 112
batch_size: 4
num_generations: 8
micro_batch: 16
max_completion_tokens: 24
learning_rate: 1.0e-5
loss: bnpo
gradient_checkpointing: false
save_steps: 1000
sample_steps: 0
"""
_WARM_UP = 2  # steps left out


def main() -> None:
    """Run both in turn and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--steps', type=int, default=12)
    parser.add_argument('--rounds', type=int, default=2)
    parser.add_argument('--one', choices=('ours', 'trl'), help=argparse.SUPPRESS)
    parser.add_argument('--folder', type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.one:
        print(json.dumps(measure(options.one, options.folder, options.steps)))
        return
    with tempfile.TemporaryDirectory() as name:
        compare(Path(name), options.steps, options.rounds)


def compare(folder: Path, steps: int, rounds: int) -> None:
    """Measure both in alternating processes and print medians and ratios."""
    from segzero_core.runtime.tiny_checkpoints import build_tiny_reasoner

    model = build_tiny_reasoner(folder / 'model')
    (folder / 'run.yaml').write_text(f'{SETTINGS}model: {model}\n')
    found: dict[str, list[dict[str, float]]] = {'ours': [], 'trl': []}
    for _ in range(rounds):
        for name, results in found.items():
            command = [sys.executable, __file__, '--one', name, '--folder', str(folder)]
            done = subprocess.run(
                [*command, '--steps', str(steps)], capture_output=True, text=True, check=True
            )
            results.append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        name: {key: statistics.median(r[key] for r in results) for key in results[0]}
        for name, results in found.items()
    }
    for key, ours in medians['ours'].items():
        theirs = medians['trl'][key]
        print(f'{key}: ours {ours:.3g}, TRL {theirs:.3g}, ratio {ours / theirs:.2f}')


def measure(name: str, folder: Path, steps: int) -> dict[str, float]:
    """Train ``steps`` steps; return the cost of the median one and the peak memory."""
    from training.config import load_config
    from training.train import make_trainer, read_records

    config = load_config(folder / 'run.yaml', [f'max_steps={steps}', f'output={folder / name}'])
    rows = read_records(config.data, 0, say=False)
    list(rows)  # rendered now: TRL's dataset has its pictures ready too
    trainer: Any
    trainer = make_trainer(config, rows, [], steps)[0] if name == 'ours' else plain(config, rows)
    wall, cpu = [time.perf_counter()], [time.process_time()]

    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            wall.append(time.perf_counter())
            cpu.append(time.process_time())

    trainer.add_callback(Clock())
    trainer.train()
    answers = config.batch_size * config.num_generations
    spent = [b - a for a, b in itertools.pairwise(wall)][_WARM_UP:]
    worked = [b - a for a, b in itertools.pairwise(cpu)][_WARM_UP:]
    return {
        'answers per second': answers / statistics.median(spent),
        'answers per CPU second': answers / statistics.median(worked),
        'peak memory in MiB': peak_megabytes(),
    }


def plain(config: Any, rows: Any) -> Any:
    """Return TRL's trainer on a dataset of conversations and images, as its examples do."""
    import datasets
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    from training.dataset import ReasonerDataset
    from training.grpo import grpo_settings
    from training.models import load_trainee
    from training.train import common_arguments
    from training.trl_rewards import reward_functions

    trainee = load_trainee(config)
    examples = ReasonerDataset(rows, trainee.task)
    truths = [examples.row(i)['truth'] for i in range(len(rows))]
    table = datasets.Dataset.from_dict(
        {
            'prompt': [
                [
                    {'role': 'system', 'content': trainee.task.family.system},
                    {'role': 'user', 'content': trainee.task.prompt.prompt(record.query)},
                ]
                for record in rows
            ],
            'image': [examples.row(i)['image'] for i in range(len(rows))],
            'number': list(range(len(rows))),
        }
    ).cast_column('image', datasets.Image())

    def numbered(function: Any) -> Any:
        def reward(completions: Any, number: list[int], **_: Any) -> list[float]:
            result: list[float] = function(completions, [truths[i] for i in number])
            return result

        reward.__name__ = function.__name__
        return reward

    trainer = GRPOTrainer(
        model=trainee.model,
        reward_funcs=[
            numbered(function) for function in reward_functions(config, trainee.task, None)
        ],
        args=grpo_settings(config, common_arguments(config, config.max_steps)),
        train_dataset=table,
        processing_class=trainee.processor,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


if __name__ == '__main__':
    main()
