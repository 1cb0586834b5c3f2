# SPDX-License-Identifier: Apache-2.0
"""The transitions: lifetime of objects, failures, and repeated attempts."""

import gc

import pytest
from rclpy.parameter import Parameter

from segzero_core.errors import CodecError


def configure(node):
    return node.trigger_configure().name


def test_through_all_states_and_back_again(graph, engines):
    node = graph.node()
    for _ in range(2):
        assert configure(node) == 'SUCCESS'
        assert engines.ScriptedReasoner.loaded == 1
        assert node.trigger_activate().name == 'SUCCESS'
        assert node.trigger_deactivate().name == 'SUCCESS'
        assert engines.ScriptedReasoner.loaded == 1
        assert node.trigger_cleanup().name == 'SUCCESS'
        assert engines.ScriptedReasoner.loaded == 0


def test_deactivating_cancels_and_closes_the_inputs(graph, engines):
    node = graph.active_node('image')
    graph.client.show_picture()
    graph.client.say('wait')
    assert engines.ScriptedReasoner.started.wait(60)
    node.trigger_deactivate()
    assert graph.client.results(1)[0]['status'] == 'cancelled'
    query = graph.client.query
    assert node.count_subscribers(query.topic_name) == 0
    node.trigger_activate()
    graph.client.wait_for_node('image')
    graph.client.show_picture(stamp=2)
    assert graph.client.ask('the red mug')['stamp']['sec'] == 2


def test_images_from_before_a_pause_are_not_used(graph, monkeypatch):
    monkeypatch.setattr('segzero_ros.node.FIRST_FRAME_S', 0.0)
    node = graph.active_node('image')
    graph.client.show_picture()
    graph.client.wait_for(lambda: node.frames.age() is not None, 'the image')
    node.trigger_deactivate()
    node.trigger_activate()
    graph.client.wait_for_node()
    assert graph.client.ask('the red mug')['error']['kind'] == 'no_image'


@pytest.mark.parametrize(
    ('name', 'bad', 'good'),
    [
        ('reasoner.model', 'broken', ''),  # cannot be loaded
        ('segmenter.torch_compile', True, False),  # an option this engine does not take
        ('image.codec', 'cv_bridge', 'numpy'),  # does not work here, see below
    ],
)
def test_a_failed_configure_can_be_repeated(graph, engines, monkeypatch, name, bad, good):
    def not_installed():
        raise CodecError('cv_bridge cannot be used here')

    monkeypatch.setattr('segzero_ros.images.probe_cv_bridge', not_installed)
    node = graph.node()
    node.set_parameters([Parameter(name, value=bad)])
    assert configure(node) == 'FAILURE'
    assert engines.ScriptedReasoner.loaded == 0
    node.set_parameters([Parameter(name, value=good)])
    assert configure(node) == 'SUCCESS'


def test_parameters_set_at_the_start_are_checked_when_configured(graph):
    node = graph.node(image__reliability='sometimes')
    assert configure(node) == 'FAILURE'


def test_shutdown_frees_the_models_from_every_state(graph, engines):
    for steps in range(3):
        node = graph.node()
        for step in (node.trigger_configure, node.trigger_activate)[:steps]:
            step()
        assert node.trigger_shutdown().name == 'SUCCESS'
        assert engines.ScriptedReasoner.loaded == 0


def test_a_model_that_does_not_stop_is_freed_when_it_does(graph, engines, monkeypatch):
    monkeypatch.setattr('segzero_ros.node.STOP_S', 0.01)
    node = graph.active_node('image')
    graph.client.show_picture()
    graph.client.say('ignore')
    assert engines.ScriptedReasoner.started.wait(60)
    node.trigger_deactivate()
    assert graph.client.results(1)[0]['status'] == 'cancelled'
    worker = node.queries.worker
    assert node.trigger_cleanup().name == 'SUCCESS'
    assert engines.ScriptedReasoner.loaded == 1
    assert configure(node) == 'SUCCESS'  # with a model of its own
    assert engines.ScriptedReasoner.loaded == 2
    engines.ScriptedReasoner.release.set()
    assert worker.close(60)
    assert engines.ScriptedReasoner.loaded == 1


def test_the_node_answers_while_its_models_load(graph, engines, monkeypatch):
    monkeypatch.setattr('segzero_ros.node.DIAGNOSTICS_S', 0.02)
    graph.node(reasoner__model='endless')
    reply = graph.client.change_state_async('configure')
    assert engines.ScriptedReasoner.started.wait(60)
    assert graph.client.state() == 'configuring'
    refused = graph.client.set_parameter('reasoner.model', '')
    assert not refused.successful
    assert 'reasoner.model is read when the node is configured, and it is configuring' in (
        refused.reason
    )
    assert not graph.client.change_state('shutdown')  # one transition at a time
    _, values = graph.client.diagnostics(lambda v: v['loading'])
    assert values['state'] == 'configuring'
    assert values['loading'].startswith('the reasoner scripted (endless) for ')
    assert not reply.done()
    engines.ScriptedReasoner.release.set()
    graph.client.wait_for(reply.done, 'the end of the transition')
    assert reply.result().success
    assert graph.client.state() == 'inactive'
    assert graph.client.diagnostics(lambda v: v['state'] == 'inactive')[1]['loading'] == ''


def test_what_is_set_while_the_models_load_holds(graph, engines):
    graph.node(reasoner__model='endless')
    reply = graph.client.change_state_async('configure')
    assert engines.ScriptedReasoner.started.wait(60)
    assert graph.client.set_parameter('query.mode', 'reject').successful
    engines.ScriptedReasoner.started.clear()
    engines.ScriptedReasoner.release.set()
    graph.client.wait_for(reply.done, 'the end of the transition')
    assert graph.client.change_state('activate')
    graph.client.wait_for_node('image')
    graph.client.show_picture()
    graph.client.say('wait')
    assert engines.ScriptedReasoner.started.wait(60)
    assert graph.client.ask('the red mug')['status'] == 'rejected'


def test_why_loading_failed_is_in_the_diagnostics_and_another_model_loads(graph, monkeypatch):
    monkeypatch.setattr('segzero_ros.node.DIAGNOSTICS_S', 0.02)
    graph.node(reasoner__model='broken')
    assert not graph.client.change_state('configure')
    assert graph.client.state() == 'unconfigured'
    _, values = graph.client.diagnostics(lambda v: v['last_error'])
    assert values['last_error'] == 'ValueError: the weights are corrupt'
    assert values['state'] == 'unconfigured'
    assert values['loading'] == ''
    assert graph.client.set_parameter('reasoner.model', '').successful
    assert graph.client.change_state('configure')
    graph.client.diagnostics(lambda v: v['state'] == 'inactive' and not v['last_error'])


def test_nothing_is_left_of_a_model_that_failed_to_load(graph, engines):
    node = graph.node(reasoner__model='broken')
    assert configure(node) == 'FAILURE'

    def nothing_left():
        gc.collect()
        return not any(type(o) is engines.ScriptedReasoner for o in gc.get_objects())

    graph.client.wait_for(nothing_left, 'the end of the model')


def test_models_that_do_not_fit_are_said_to_be_too_large(graph, monkeypatch):
    pytest.importorskip('torch')
    monkeypatch.setattr('segzero_ros.node.DIAGNOSTICS_S', 0.02)
    node = graph.node(reasoner__model='huge')
    assert configure(node) == 'FAILURE'
    status, values = graph.client.diagnostics(lambda v: v['last_error'])
    assert values['last_error'].startswith('OutOfMemoryError: the models do not fit: end what')
    assert status.level == b'\x02'


def tensor_bytes():
    import torch

    gc.collect()
    tensors = [each for each in gc.get_objects() if isinstance(each, torch.Tensor)]
    return sum(t.untyped_storage().nbytes() for t in tensors)


def test_cleanup_frees_the_memory_of_real_models(graph, tiny_reasoner_dir, tiny_segmenter_dir):
    node = graph.node(
        reasoner__engine='transformers',
        reasoner__model=str(tiny_reasoner_dir),
        reasoner__device='cpu',
        segmenter__engine='sam2',
        segmenter__model=str(tiny_segmenter_dir),
        segmenter__device='cpu',
    )
    weights = [*tiny_reasoner_dir.glob('*.safetensors'), *tiny_segmenter_dir.glob('*.safetensors')]

    def loaded_and_left():
        before = tensor_bytes()
        assert configure(node) == 'SUCCESS'
        worker, loaded = node.queries.worker, tensor_bytes() - before
        assert node.trigger_cleanup().name == 'SUCCESS'
        assert worker.close(60)  # a busy machine may need more than STOP_S
        return loaded, tensor_bytes() - before

    loaded_and_left()  # transformers keeps some constants from the first time
    loaded, left = loaded_and_left()
    assert loaded >= 0.9 * sum(file.stat().st_size for file in weights) > 0
    assert left < 0.01 * loaded
