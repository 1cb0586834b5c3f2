# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')
pytest.importorskip('transformers', reason='needs transformers: see requirements/models.txt')

import torch
from PIL import Image

from segzero_core.answers.parse import parse_answer
from segzero_core.errors import ConfigError
from segzero_core.geometry import box_iou, mask_to_box
from segzero_core.prompts import get_family
from segzero_core.reasoners.qwen_processor import QwenProcessor
from segzero_core.reasoners.transformers import TransformersReasoner
from segzero_core.runtime.checkpoints import transformers
from segzero_core.synthetic import COLOURS, SHAPES, SIZES
from segzero_core.types import Box, Size
from training.metrics_log import read_metrics
from training.tiny_recipe import Phase, ReasonerSettings, reasoner_loop, train_reasoner
from training.tiny_recipe.batches import NO_LABEL, Batcher, mirror_item
from training.tiny_recipe.losses import (
    DenseHeads,
    Vocabulary,
    copy_losses,
    dense_losses,
    gaze_losses,
    hits,
    recall_loss,
)
from training.tiny_recipe.network import read, see
from training.tiny_recipe.scene_cache import load_scenes
from training.tiny_recipe.texts import find_named, mirror_sentence, write_reply
from training.tiny_recipe.train import read_settings, train_model
from training.train import main

SIDE = 128
ROOT = Path(__file__).parents[3]
PRESET = ROOT / 'config' / 'tiny_recipe' / 'tiny_reasoner.yaml'


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp('scenes')


@pytest.fixture(scope='module')
def scenes(cache):
    return load_scenes(cache, 7, 6, SIDE)


@pytest.fixture(scope='module')
def folder(tmp_path_factory, scenes):
    folder = tmp_path_factory.mktemp('untrained') / 'start'
    reasoner_loop.create(folder, scenes, seed=1)
    return folder


@pytest.fixture(scope='module')
def model(folder):
    return transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope='module')
def processor(folder):
    return QwenProcessor.from_pretrained(folder)


@pytest.fixture(scope='module')
def batcher(scenes, processor):
    return Batcher(scenes, processor.tokenizer, get_family('tiny'), patch=8, merge=2)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def statistics(processor):
    images = processor.image_processor
    return torch.tensor(images.image_mean), torch.tensor(images.image_std)


def test_rendered_scenes_come_back_from_the_cache_as_they_were(cache, scenes):
    files = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    again = load_scenes(cache, 7, 6, SIDE)
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == files
    assert np.array_equal(again.images, scenes.images)
    assert again.items == scenes.items
    assert again.queries == scenes.queries


def test_scenes_of_another_generator_are_not_taken_for_these(cache, scenes, monkeypatch):
    files = set(cache.iterdir())
    monkeypatch.setattr('training.tiny_recipe.scene_cache.VERSION', 'another')
    load_scenes(cache, 7, 6, SIDE)
    (fresh,) = set(cache.iterdir()) - files
    assert 'another' in fresh.name


def test_items_are_where_the_instances_are(scenes):
    for instances, items in zip(scenes.instances, scenes.items, strict=True):
        for number, item in enumerate(items, start=1):
            assert box_iou(item.box, mask_to_box(instances == number)) > 0.7


def test_a_mirrored_item_is_where_the_mirrored_instance_is(scenes):
    for instances, items in zip(scenes.instances, scenes.items, strict=True):
        for number, item in enumerate(items, start=1):
            mirrored = mirror_item(item, SIDE)
            assert box_iou(mirrored.box, mask_to_box(instances[:, ::-1] == number)) > 0.7
            assert mirror_item(mirrored, SIDE) == item


def test_a_mirrored_sentence_names_the_other_side():
    assert mirror_sentence('the leftmost cup right of the box') == (
        'the rightmost cup left of the box'
    )
    assert mirror_sentence('what is left for the bright mug') == 'what is right for the bright mug'


def test_a_reply_says_where_the_item_is_in_one_token_per_number(scenes, processor):
    item = scenes.items[0][0]
    text = write_reply(item, SIDE)
    answer = parse_answer(text, Size(SIDE, SIDE))
    assert answer.repairs == ()
    assert box_iou(answer.box, item.box) > 0.8
    assert item.colour in answer.reasoning
    assert item.shape in answer.reasoning
    ids = processor.tokenizer(text).input_ids
    assert processor.tokenizer.decode(ids) == text
    pieces = [processor.tokenizer.decode([token]) for token in ids]
    assert [piece for piece in pieces if piece.isdigit()] == [
        str(int(number)) for number in (*answer.box, *answer.points[0], *answer.points[1])
    ]
    assert len(ids) <= 30


def test_the_batched_tower_sees_what_the_model_sees(scenes, model, processor):
    images = torch.from_numpy(scenes.images[:3]).permute(0, 3, 1, 2)
    inputs = processor.image_processor(
        [Image.fromarray(image) for image in scenes.images[:3]], return_tensors='pt'
    )
    with torch.no_grad():
        ours = see(model, images, *statistics(processor))
        theirs = model.model.visual(inputs['pixel_values'], grid_thw=inputs['image_grid_thw'])
    assert torch.allclose(ours.flatten(0, 1), theirs.pooler_output, atol=1e-5)


def test_every_packed_sentence_reads_as_if_it_were_alone(scenes, model, processor, batcher, rng):
    images, _, packed = batcher.draw(2, 3, rng)
    with torch.no_grad():
        seen = see(model, images, *statistics(processor))
        together = model.lm_head(read(model, seen, packed, batcher.tokens, middle=2).final)
        for row in range(2):
            picture = Image.fromarray(images[row].permute(1, 2, 0).numpy())
            segments = split_segments(packed, row, batcher, processor.tokenizer.pad_token_id)
            assert len(segments) == 3
            for places in segments:
                ids = [*batcher.head, *packed.ids[row, batcher.tokens], *packed.ids[row, places]]
                text = processor.tokenizer.decode(ids).replace(
                    '<|image_pad|>' * 64, '<|image_pad|>'
                )
                inputs = processor(text=[text], images=[picture], return_tensors='pt')
                assert inputs['input_ids'][0].tolist() == [int(i) for i in ids]
                alone = model(**inputs).logits[0, -len(places) :]
                assert torch.allclose(together[row, places], alone, atol=1e-4)


def split_segments(packed, row, batcher, padding):
    """Return the places of each sentence of one sequence: where positions start again."""
    positions = packed.positions[0, row]
    first = int(positions[batcher.tokens.stop])
    used = packed.ids[row] != padding
    places = torch.arange(len(positions))[batcher.tokens.stop :]
    places = places[used[batcher.tokens.stop :]]
    starts = [int(place) for place in places if positions[place] == first]
    return [
        torch.arange(start, stop)
        for start, stop in zip(starts, [*starts[1:], int(places[-1]) + 1], strict=True)
    ]


def test_labels_are_the_replies_and_nothing_else(packed_once, processor):
    packed = packed_once
    for row in range(len(packed.ids)):
        written = packed.labels[row][packed.labels[row] != NO_LABEL]
        text = processor.tokenizer.decode(written)
        replies = text.split('<|im_end|>')
        assert replies.pop() == ''
        assert len(replies) == 2
        for reply in replies:
            parse_answer(reply, Size(SIDE, SIDE))


@pytest.fixture
def packed_once(batcher, rng):
    return batcher.draw(3, 2, rng)[2]


def test_dense_truth_says_what_is_on_a_token(batcher, scenes, rng):
    images, dense, _ = batcher.draw(4, 0, rng)
    assert images.shape == (4, 3, SIDE, SIDE)
    assert dense.owned.any(dim=1).all()
    assert not dense.owned.all(dim=1).any()
    token = torch.arange(64)
    centre = torch.stack([token % 8, token // 8], dim=-1) * 16 + 8
    near = (dense.numbers[..., :2] - 16 < centre) & (centre < dense.numbers[..., 2:4] + 16)
    assert near.all(-1)[dense.owned].all()
    low, high = dense.numbers[dense.owned][:, :2], dense.numbers[dense.owned][:, 2:4]
    for point in dense.numbers[dense.owned][:, 4:].split(2, dim=-1):
        assert ((low < point) & (point < high)).all()


@pytest.fixture(scope='module')
def vocabulary(processor):
    return Vocabulary.of(processor.tokenizer, SIDE)


def test_every_name_and_number_is_a_token_of_its_own(vocabulary, processor):
    def spell(ids):
        return [processor.tokenizer.decode([int(token)]) for token in ids]

    assert [spell(ids) for ids in vocabulary.names] == [
        [f' {name}' for name in group] for group in (COLOURS, SHAPES, SIZES)
    ]
    assert spell(vocabulary.numbers) == [str(number) for number in range(SIDE)]


def test_a_number_may_be_off_by_a_little(vocabulary):
    scores = vocabulary.near.log().clamp(min=-1e4)
    aim = vocabulary.whole(torch.tensor([3.4, 100.6, 200.0]))
    assert aim.tolist() == [3, 101, SIDE - 1]
    assert float(vocabulary.loss(scores[aim], aim)) == pytest.approx(0, abs=1e-4)
    assert float(vocabulary.loss(scores[aim - 5], aim)) > 1


def test_dense_losses_are_small_only_where_the_states_tell(batcher, vocabulary, model, rng):
    """Heads fitted to states which hold the truth read it; to empty ones, they do not."""
    _, dense, _ = batcher.draw(2, 0, rng)
    table = model.get_input_embeddings().weight.detach()
    told = torch.zeros(2, 64, table.shape[1])
    told[..., :4] = dense.numbers[..., :4] / SIDE
    told[..., 4] = dense.owner
    for number in range(int(dense.owner.max()) + 1):
        told[..., 8 + number] = dense.owner == number

    def fit(read):
        heads = DenseHeads(table.shape[1], batcher.grid)
        optimizer = torch.optim.Adam(heads.parameters(), lr=3e-2)
        for _ in range(60):
            losses = dense_losses(heads, told, read, dense, vocabulary, table, cell=16)
            optimizer.zero_grad()
            sum(loss for name, loss in losses.items() if not name.startswith('hit')).backward()
            optimizer.step()
        return losses

    informed, blind = fit(told), fit(torch.ones_like(told))
    assert float(informed['hit/read']) > 0.9 > 0.5 > float(blind['hit/read'])
    for name in ('read/object', 'read/colour', 'read/shape'):
        assert informed[name] < 0.3 * blind[name]


def test_copying_asks_for_all_numbers_wherever_one_is_written(packed_once, vocabulary, model):
    labels = packed_once.labels[packed_once.labels != NO_LABEL]
    table = model.get_input_embeddings().weight.detach()
    heads = DenseHeads(table.shape[1], 8)
    states = torch.randn(len(labels), table.shape[1])
    counts = torch.isin(labels, vocabulary.numbers)
    assert int(counts.sum()) == 8 * 3 * 2
    loss = copy_losses(heads, states, labels, vocabulary, table)['copy']
    states[~counts] = torch.nan  # words do not matter
    assert torch.equal(copy_losses(heads, states, labels, vocabulary, table)['copy'], loss)
    states[counts.nonzero()[0]] *= -1
    assert not torch.equal(copy_losses(heads, states, labels, vocabulary, table)['copy'], loss)


def test_hits_counts_boxes_that_overlap_by_half():
    truth = torch.tensor([[0.0, 0, 10, 10]]).expand(3, -1)
    found = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5.2], [0, 0, 10, 4.8]])
    assert float(hits(found, truth)) == pytest.approx(2 / 3)
    assert [box_iou(Box(*box), Box(0, 0, 10, 10)) > 0.5 for box in found.tolist()] == [
        True,
        True,
        False,
    ]


def test_gaze_is_right_on_any_token_of_the_target():
    owner = torch.tensor([[-1, 0, 0, 1], [-1, 0, 0, 1]])
    gaze = torch.tensor([[0.0, 20, 20, 0], [0, 20, 20, 0]])
    loss, right = gaze_losses(gaze, torch.tensor([0, 1]), owner)
    assert float(right) == 0.5
    assert float(loss) == pytest.approx((0 + 20 + np.log(2)) / 2, abs=1e-3)
    crowded_out, _ = gaze_losses(gaze, torch.tensor([0, 2]), owner)
    assert float(crowded_out) == pytest.approx(0, abs=1e-3)
    nothing_named, _ = gaze_losses(gaze[:0], torch.tensor([], dtype=torch.int64), owner[:0])
    assert float(nothing_named) == 0


def test_a_sentence_names_its_target_or_what_it_stands_beside(scenes):
    kinds = set()
    for items, queries in zip(scenes.items, scenes.queries, strict=True):
        for query in queries:
            named = find_named(query, items)
            kinds.add(query.kind)
            if query.kind == 'attribute':
                assert named == query.target
            elif query.kind == 'relation':
                assert named not in (query.target, -1)
                assert f'the {items[named].colour} ' in query.text
            else:
                assert named == -1
    assert {'attribute', 'relation', 'superlative'} <= kinds


def test_the_words_to_be_known_are_those_before(packed_once, processor):
    """After a sentence its words; in an answer those of the thought."""
    packed, spell = packed_once, processor.tokenizer.decode
    sequence = spell(packed.ids[0]).split('<|vision_end|>')[1:]
    for number in range(4):
        there = spell(packed.ids[0][packed.heard[0] == number])
        words = [spell([int(t)]) for t in packed.texts[number].nonzero()[:, 0]]
        asked, _, reply = sequence[number // 2].partition('<|im_end|>')
        thought, _, answer = reply.partition('</think>')
        if number % 2:
            assert there == answer.split('<|endoftext|>')[0]
            assert 'The' in words
            assert all(word in thought + '</think>' for word in words)
        else:
            assert there == '<|im_end|>' + thought + '</think>'
            assert all(word in asked for word in words)
        assert float(packed.texts[number].sum()) == pytest.approx(1)


def test_what_is_named_is_known_between_sentence_and_reply(packed_once, processor):
    packed = packed_once
    for row in range(len(packed.ids)):
        for item in packed.named[row].unique().tolist():
            spelled = processor.tokenizer.decode(packed.ids[row][packed.named[row] == item])
            if item >= 0:
                assert spelled.replace('<|im_end|>\n<|im_start|>assistant\n', '') == ''


@torch.no_grad()
def test_recall_asks_for_the_words_of_a_text():
    table = torch.eye(8)
    heads = DenseHeads(8, 8)
    heads.recall.weight.copy_(20 * torch.eye(8))
    heads.recall.bias.zero_()
    texts = torch.eye(8)[:3]
    assert float(recall_loss(heads, texts, texts, table)) == pytest.approx(0, abs=1e-3)
    assert float(recall_loss(heads, texts.roll(1, 0), texts, table)) > 5


def settings(folder, cache):
    return ReasonerSettings(
        folder,
        cache,
        scenes=6,
        first_scene=7,
        phases=(Phase(4, 3, 0, 1e-3), Phase(4, 2, 2, 1e-3)),
        save_every=3,
    )


def stopped_at_fifth_step(monkeypatch):
    """Stop a warm-up at its fifth step; return the list of those that were begun."""
    update, steps = reasoner_loop.ReasonerRun.update, []

    def stop_at_fifth(run, phase):
        steps.append(phase)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return update(run, phase)

    monkeypatch.setattr(reasoner_loop.ReasonerRun, 'update', stop_at_fifth)
    return steps


def test_a_stopped_warm_up_goes_on_as_if_nothing_had_happened(tmp_path, cache, monkeypatch):
    whole = train_reasoner(settings(tmp_path / 'whole', cache))
    steps = stopped_at_fifth_step(monkeypatch)
    halves = settings(tmp_path / 'halves', cache)
    with pytest.raises(KeyboardInterrupt):
        train_reasoner(halves)
    resumed = train_reasoner(halves)
    assert len(steps) == 5 + 5  # from step 3 on
    first, second = (
        transformers.AutoModelForImageTextToText.from_pretrained(folder).state_dict()
        for folder in (whole, resumed)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert train_reasoner(halves) == resumed  # is done
    assert len(steps) == 10
    assert [file.name for file in resumed.parent.iterdir() if file.is_file()] == []


def test_a_run_goes_on_with_no_other_settings_and_measures_no_step_twice(
    tmp_path, cache, monkeypatch
):
    monkeypatch.setattr(reasoner_loop, 'REPORT_EVERY', 1)
    stopped_at_fifth_step(monkeypatch)
    base = settings(tmp_path / 'run', cache)
    file = tmp_path / 'short.yaml'
    values = json.loads(json.dumps(dataclasses.asdict(base), default=str))
    file.write_text(json.dumps({'role': 'reasoner', **values}))
    with pytest.raises(KeyboardInterrupt):
        train_model(read_settings(file, []))
    assert [line['step'] for line in read_metrics(base.output)] == [1, 2, 3, 4]
    with pytest.raises(ConfigError, match=r'other settings: seed \(0, now 1\)'):
        train_model(read_settings(file, ['seed=1', 'save_every=2']))
    train_model(read_settings(file, ['save_every=2']))
    done = [line['step'] for line in read_metrics(base.output)]
    assert done == sorted(set(done))
    assert (base.output / 'model' / 'model.safetensors').is_file()
    with pytest.raises(ConfigError, match='dense_weight'):
        train_model(read_settings(file, ['dense_weight=0.5']))  # though it is done


def test_what_comes_out_is_an_ordinary_checkpoint_that_answers(tmp_path, cache, scenes):
    folder = train_reasoner(settings(tmp_path, cache))
    assert sum(file.stat().st_size for file in folder.iterdir()) < 30e6
    reasoner = TransformersReasoner(str(folder), device='cpu', max_new_tokens=5)
    assert reasoner.task.family.name == 'tiny'
    assert isinstance(reasoner.reason(scenes.images[0], 'the red mug').text, str)


def test_reinforcement_goes_on_from_what_comes_out(tmp_path, cache, trl):
    model = train_reasoner(settings(tmp_path, cache))
    output = tmp_path / 'grpo'
    small = 'batch_size=2 num_generations=2 micro_batch=2 max_completion_tokens=4 max_steps=1'
    off = 'eval_data= segmenter= segmenter_model= sample_steps=0'
    ours = [f'model={model}', f'output={output}', 'data=synthetic:train?size=64&count=2']
    assert (
        main(
            [
                '--config',
                str(ROOT / 'config' / 'training' / 'tiny_grpo.yaml'),
                *ours,
                *f'{small} {off}'.split(),
            ]
        )
        == 0
    )
    assert (output / 'model' / 'model.safetensors').is_file()


def test_it_learns(tmp_path, cache):
    few = dataclasses.replace(
        settings(tmp_path, cache),
        phases=(Phase(100, 3, 1, 2e-3),),
        save_every=1000,
    )
    lines = []
    train_reasoner(few, on_report=lines.append)
    assert lines[1]['words'] < 0.5 * lines[0]['words']
    assert lines[1]['numbers'] < lines[0]['numbers']
    assert lines[1]['read/colour'] < lines[0]['read/colour']


def test_a_phase_asks_only_its_kinds_of_sentences(batcher, scenes, processor, rng):
    packed = batcher.draw(6, 4, rng, ['superlative'])[2]
    asked = processor.tokenizer.batch_decode(packed.ids)
    said = [
        text for queries in scenes.queries for text, kind, _ in queries if kind != 'superlative'
    ]
    assert any('est ' in text for text in asked)
    assert not any(f'>{text}<' in sequence for text in said for sequence in asked)
