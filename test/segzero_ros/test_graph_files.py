# SPDX-License-Identifier: Apache-2.0
"""SROS 2 policy, RViz and Foxglove layouts, compared with the real graph."""

import importlib
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
# How Foxglove's panels say what they show, and of which type that must be.
PANELS = {
    'Image': 'sensor_msgs/msg/Image',
    'RawMessages': 'std_msgs/msg/String',
    'DiagnosticSummary': 'diagnostic_msgs/msg/DiagnosticArray',
    'Publish': 'std_msgs/msg/String',
}


@pytest.fixture(scope='module')
def graph(ros):
    """The node's names in each way: {'publish': {name: type}, 'subscribe': ..., 'reply': ...}."""
    from rclpy.parameter import Parameter

    from segzero_ros.node import SegZeroNode

    node = SegZeroNode(parameter_overrides=[Parameter('depth.enabled', value=True)])
    assert node.trigger_configure().name == 'SUCCESS'
    assert node.trigger_activate().name == 'SUCCESS'
    ways = {
        'publish': node.get_publisher_names_and_types_by_node,
        'subscribe': node.get_subscriber_names_and_types_by_node,
        'reply': node.get_service_names_and_types_by_node,
    }
    yield {
        way: {name: types[0] for name, types in get('segzero', '/')} for way, get in ways.items()
    }
    node.release()
    node.destroy_node()


@pytest.fixture(scope='module')
def policy():
    """The permissions of each enclave: {enclave: {way: names}}, names written out."""
    root = ElementTree.parse(ROOT / 'deploy' / 'sros2' / 'policy.xml').getroot()
    allowed = {}
    for enclave in root.iter('enclave'):
        ways = allowed[enclave.attrib['path']] = {}
        for profile in enclave.iter('profile'):
            namespace, node = profile.attrib['ns'], profile.attrib['node']
            for rules in profile:
                for way, verdict in rules.attrib.items():
                    assert verdict == 'ALLOW'
                    for item in rules:
                        name = item.text.replace('~', f'{namespace}{node}')
                        name = name if name.startswith('/') else namespace + name
                        ways.setdefault(way, set()).add(name)
    return allowed


def test_node_may_do_what_it_does_and_nothing_else(graph, policy):
    # Under enforcement a node that lacks one of them does not even start.
    assert policy['/segzero/node'] == {way: set(names) for way, names in graph.items()}


def test_only_the_operator_may_speak_to_it(policy):
    for way, name in [('publish', '/segzero/query'), ('request', '/segzero/cancel')]:
        may = {enclave for enclave, ways in policy.items() if name in ways.get(way, ())}
        assert may == {'/segzero/operator'}
    requested = policy['/segzero/operator']['request']
    # It may look at the state, but change neither that nor a parameter.
    assert requested == {'/segzero/cancel', '/segzero/clear', '/segzero/get_state'}


def test_the_others_hear_and_feed_what_the_node_has(graph, policy):
    assert policy['/segzero/operator']['subscribe'] <= set(graph['publish'])
    assert policy['/segzero/operator']['request'] <= set(graph['reply'])
    images = {'/image', '/depth', '/camera_info'}
    assert images <= policy['/segzero/camera']['publish']
    assert images <= set(graph['subscribe'])


def test_foxglove_panels_show_topics_of_their_type(graph):
    layout = json.loads((ROOT / 'config' / 'segzero.foxglove.json').read_text(encoding='utf-8'))
    assert sorted(leaves(layout['layout'])) == sorted(layout['configById'])
    topics = {**graph['publish'], **graph['subscribe']}
    shown = set()
    for name, panel in layout['configById'].items():
        kind = name.split('!')[0]
        topic, *field = topic_of(kind, panel).split('.')
        assert topics[topic] == PANELS[kind], name
        shown.add(topic)
        if field:
            package, _, message = PANELS[kind].split('/')
            known = getattr(importlib.import_module(f'{package}.msg'), message)
            assert field[0] in known.get_fields_and_field_types()
        for overlaid in panel.get('topics', {}):
            assert overlaid in topics
        if kind == 'Publish':
            assert topic in graph['subscribe']
            assert panel['datatype'] == PANELS[kind]
            assert set(json.loads(panel['value'])) == {'data'}
        if 'calibrationTopic' in panel.get('imageMode', {}):
            assert topics[panel['imageMode']['calibrationTopic']] == 'sensor_msgs/msg/CameraInfo'
    wanted = {'/image', '/diagnostics'} | {f'/segzero/{n}' for n in ('overlay', 'mask', 'result')}
    assert wanted <= shown


def topic_of(kind, panel):
    if kind == 'Image':
        return panel['imageMode']['imageTopic']
    keys = {
        'RawMessages': 'topicPath', 'DiagnosticSummary': 'topicToRender', 'Publish': 'topicName',
    }  # fmt: skip
    return panel[keys[kind]]


def leaves(layout):
    """Return the panels of a layout: a name, or two halves."""
    if isinstance(layout, str):
        return [layout]
    assert layout['direction'] in ('row', 'column')
    return leaves(layout['first']) + leaves(layout['second'])


def test_rviz_displays_show_topics_of_their_type(graph):
    document = yaml.safe_load((ROOT / 'config' / 'segzero.rviz').read_text(encoding='utf-8'))
    topics = {**graph['publish'], **graph['subscribe']}
    displays = [d for d in document['Visualization Manager']['Displays'] if 'Topic' in d]
    assert displays
    for display in displays:
        kind = display['Class'].split('/')[-1]
        assert topics[display['Topic']['Value']].split('/')[-1] == kind, display['Name']
