# SPDX-License-Identifier: Apache-2.0
"""A ROS graph per test: the real node, real DDS, a separate domain."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LONG = 60.0  # seconds; reached only by a defect
HAS_ROS = importlib.util.find_spec('rclpy') is not None

CAMERA = (100.0, 110.0, 39.5, 29.5)  # fx, fy, cx, cy
WIDTH, HEIGHT = 80, 60

# Never the same again: rclpy keeps a lifecycle node's services until its garbage is collected,
# so an earlier module's node may still be there when a domain is used again.
NUMBERS = itertools.count()


class WithoutRos(pytest.Module):
    def collect(self):
        pytest.skip('needs ROS 2 (rclpy)', allow_module_level=True)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path, parent):
    return None if HAS_ROS else WithoutRos.from_parent(parent, path=module_path)


@pytest.fixture(scope='module')
def domain(tmp_path_factory):
    """The environment of a separate ROS domain, on this machine only."""
    import domain_coordinator

    with pytest.MonkeyPatch.context() as patch, domain_coordinator.domain_id() as number:
        patch.setenv('ROS_DOMAIN_ID', str(number))
        patch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
        patch.setenv('ROS_LOG_DIR', str(tmp_path_factory.mktemp('log')))
        patch.delenv('FASTDDS_DEFAULT_PROFILES_FILE', raising=False)
        patch.delenv('FASTRTPS_DEFAULT_PROFILES_FILE', raising=False)
        yield number


@pytest.fixture(scope='module')
def ros(domain):
    """ROS, initialised on the domain; returns names for the topics of one test each."""
    import rclpy

    rclpy.init()
    yield (f'/test{i}' for i in NUMBERS)
    rclpy.try_shutdown()


@pytest.fixture
def engines(monkeypatch):
    """The engines `scripted` and `box`, registered like all others."""
    monkeypatch.syspath_prepend(str(HERE))
    module = importlib.import_module('scripted_engines')
    for registry, name, engine in module.ENGINES:
        monkeypatch.setitem(registry, name, engine)
    module.ScriptedReasoner.seen.clear()
    module.ScriptedReasoner.asked.clear()
    module.ScriptedReasoner.started.clear()
    module.ScriptedReasoner.release.clear()
    module.BoxSegmenter.embedded.clear()
    yield module
    module.ScriptedReasoner.release.set()


def wait_for(ready, what):
    """Return what ``ready`` returns once it is true."""
    deadline = time.monotonic() + LONG
    while not (value := ready()):
        assert time.monotonic() < deadline, f'{what} did not come within {LONG:.0f} s'
        time.sleep(0.005)
    return value


class Spinner:
    """Spins a node in a thread."""

    def __init__(self, node):
        from rclpy.executors import SingleThreadedExecutor

        self.node = node
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self):
        while not self._ended.is_set():
            self._executor.spin_once(timeout_sec=0.05)

    @property
    def alive(self):
        return self._thread.is_alive()

    def close(self):
        self._ended.set()
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()


def services():
    """Return the services of the node that tests call; the one that is served always is last."""
    from lifecycle_msgs.srv import ChangeState, GetState
    from rcl_interfaces.srv import DescribeParameters, SetParameters
    from std_srvs.srv import Trigger

    kinds = {
        'cancel': Trigger,
        'clear': Trigger,
        'change_state': ChangeState,
        'describe_parameters': DescribeParameters,
        'set_parameters': SetParameters,
        'get_state': GetState,
    }
    return {name: (kind, f'segzero/{name}') for name, kind in kinds.items()}


class Client:
    """A camera and a client: publishes the inputs of the node and stores its outputs."""

    def __init__(self, namespace):
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from geometry_msgs.msg import PointStamped, PolygonStamped, PoseArray
        from sensor_msgs.msg import Image
        from std_msgs.msg import String

        self.namespace = namespace
        self.node = rclpy.create_node('client', namespace=namespace)
        self.messages = {}
        self.subscriptions = []
        self.listen('/diagnostics', DiagnosticArray)
        for name, kind in {
            'mask': Image,
            'reasoning': String,
            'reasoning_stream': String,
            'result': String,
            'target_pixels': PolygonStamped,
            'target_point': PointStamped,
            'target_points': PoseArray,
        }.items():
            self.listen(name, kind)
        self.query = self.node.create_publisher(String, 'segzero/query', 10)
        self.cameras = {}
        self.known = False  # to the node
        # One client for each service, for good: a server drops its reply to a client that it has
        # not discovered. DDS announces endpoints in the order of their creation, so a reply of
        # the last service tells that the node has discovered everything above.
        self.clients = {name: self.node.create_client(*each) for name, each in services().items()}
        self.spinner = Spinner(self.node)

    def listen(self, name, kind):
        kept = self.messages[name] = []
        topic = name if name.startswith('/') else f'segzero/{name}'
        self.subscriptions.append(self.node.create_subscription(kind, topic, kept.append, 2000))
        return self.subscriptions[-1]

    def wait_for_node(self, *cameras):
        """Wait until the node is connected in both directions, with all ``cameras``."""
        from sensor_msgs.msg import CameraInfo, CompressedImage, Image

        kinds = {
            'image': (Image, 'image'),
            'compressed': (CompressedImage, 'image'),
            'depth': (Image, 'depth'),
            'camera_info': (CameraInfo, 'camera_info'),
        }
        for name in cameras:
            self.cameras[name] = self.node.create_publisher(*kinds[name], 1)
        publishers = [self.query, *self.cameras.values()]
        wait_for(lambda: all(p.get_subscription_count() for p in publishers), 'the node (inputs)')
        wait_for(
            lambda: all(s.get_publisher_count() for s in self.subscriptions), 'the node (outputs)'
        )
        self.wait_until_known()

    def wait_until_known(self):
        """Wait until the node has discovered this client's subscriptions and services."""
        from lifecycle_msgs.srv import GetState

        asked = []

        def told():
            # Asked again from time to time: the first replies may be dropped.
            if not asked or time.monotonic() - asked[-1][0] > 2:
                client = self.clients['get_state']
                wait_for(client.service_is_ready, 'service get_state')
                asked.append((time.monotonic(), client.call_async(GetState.Request())))
            return any(reply.done() for _, reply in asked)

        if not self.known:
            wait_for(told, 'a reply of get_state')
            self.known = True

    def show(self, name, message, stamp=None):
        """Publish a camera message; stamp is in whole seconds."""
        from builtin_interfaces.msg import Time

        message.header.frame_id = 'optical'
        if stamp is not None:
            message.header.stamp = Time(sec=stamp)
        self.cameras[name].publish(message)

    def show_picture(self, stamp=1, value=100):
        from std_msgs.msg import Header

        from segzero_ros.images import array_to_image

        pixels = np.full((HEIGHT, WIDTH, 3), value, np.uint8)
        self.show('image', array_to_image(pixels, 'rgb8', Header()), stamp)

    def show_depth(self, stamp=1, metres=0.5, shape=(HEIGHT, WIDTH)):
        from std_msgs.msg import Header

        from segzero_ros.images import array_to_image

        pixels = np.full(shape, metres, np.float32)
        self.show('depth', array_to_image(pixels, '32FC1', Header()), stamp)

    def show_info(self, stamp=1, intrinsics=CAMERA, size=(WIDTH, HEIGHT)):
        from std_msgs.msg import Header

        from segzero_core.types import Intrinsics, Size
        from segzero_ros.sim_camera import info_message

        message = info_message(Header(), Intrinsics(*intrinsics), Size(*size))
        self.show('camera_info', message, stamp)

    @staticmethod
    def wait_for(ready, what):
        """Return what ``ready`` returns once it is true."""
        return wait_for(ready, what)

    def say(self, sentence):
        """Publish a sentence, or a JSON request, once both sides know each other."""
        from std_msgs.msg import String

        wait_for(self.query.get_subscription_count, 'the node (query)')
        self.wait_until_known()
        text = sentence if isinstance(sentence, str) else json.dumps(sentence)
        self.query.publish(String(data=text))

    def results(self, count):
        """Return the first ``count`` results once they are there."""
        kept = self.messages['result']
        wait_for(lambda: len(kept) >= count, f'result {count}')
        return [json.loads(message.data) for message in kept]

    def ask(self, sentence):
        """Send a sentence, or a JSON request, and return its result."""
        count = len(self.messages['result']) + 1
        self.say(sentence)
        result = self.results(count)[-1]
        query = sentence if isinstance(sentence, str) else sentence.get('query')
        assert result['query'] == query
        return result

    def message(self, name):
        """Return the newest message of an output once there is one."""
        kept = self.messages[name]
        return wait_for(lambda: kept and kept[-1], name)

    def call_async(self, name, request):
        """Call a service of the node; return the future response."""
        client = self.clients[name]
        wait_for(client.service_is_ready, f'service {name}')
        self.wait_until_known()
        return client.call_async(request)

    def call(self, name, request=None):
        """Call a service of the node and return its response."""
        reply = self.call_async(name, request or self.clients[name].srv_type.Request())
        wait_for(reply.done, f'reply of {name}')
        return reply.result()

    def change_state_async(self, label):
        """Ask for a transition; return the future response."""
        from lifecycle_msgs.srv import ChangeState

        request = ChangeState.Request()
        request.transition.label = label
        return self.call_async('change_state', request)

    def change_state(self, label):
        """Ask for a transition and return whether it succeeded."""
        reply = self.change_state_async(label)
        wait_for(reply.done, f'the transition {label}')
        return reply.result().success

    def state(self):
        """Return the label of the node's state."""
        return self.call('get_state').current_state.label

    def set_parameter(self, name, value):
        """Set a parameter of the node by its service and return the result."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        message = Parameter(name, value=value).to_parameter_msg()
        return self.call('set_parameters', SetParameters.Request(parameters=[message])).results[0]

    def diagnostics(self, ready):
        """Return the node's newest status and its values, once ``ready`` holds for these."""
        name = f'{self.namespace.lstrip("/")}/segzero'

        def find():
            arrays = reversed(self.messages['/diagnostics'])
            ours = (s for array in arrays for s in array.status if s.name == name)
            status = next(ours, None)
            values = {} if status is None else {v.key: v.value for v in status.values}
            return values and ready(values) and (status, values)

        return wait_for(find, 'diagnostics')


class Graph:
    """A client and, if requested, the node, in a separate namespace."""

    def __init__(self, namespace):
        self.namespace = namespace
        self.client = Client(namespace)
        self.nodes = []

    def node(self, **parameters):
        """Return an unconfigured node; ``__`` in a name stands for a dot."""
        from rclpy.parameter import Parameter

        from segzero_ros.node import SegZeroNode

        given = {
            'reasoner__engine': 'scripted',
            'segmenter__engine': 'box',
            'image__max_arrival_age': 0.0,  # tests publish one picture, and machines may be slow
            **parameters,
        }
        overrides = [
            Parameter(name.replace('__', '.'), value=value) for name, value in given.items()
        ]
        node = SegZeroNode(namespace=self.namespace, parameter_overrides=overrides)
        self.nodes.append(Spinner(node))
        return node

    def active_node(self, *cameras, **parameters):
        """Return an active node that is connected to the client's cameras."""
        node = self.node(**parameters)
        assert node.trigger_configure().name == 'SUCCESS'
        assert node.trigger_activate().name == 'SUCCESS'
        self.client.wait_for_node(*cameras)
        return node

    def close(self):
        for spinner in self.nodes:
            assert spinner.alive
            spinner.node.release()
            spinner.close()
        self.client.spinner.close()


@pytest.fixture
def make_graph(ros, engines):
    """Makes graphs; several graphs are several robots, or several cameras of one robot."""
    graphs = []

    def make():
        graphs.append(Graph(next(ros)))
        return graphs[-1]

    yield make
    engines.ScriptedReasoner.release.set()
    for graph in graphs:
        graph.close()


@pytest.fixture
def graph(make_graph):
    return make_graph()


@pytest.fixture
def make_client(ros):
    """Makes clients of nodes that run in other processes."""
    clients = []

    def make(namespace):
        clients.append(Client(namespace))
        return clients[-1]

    yield make
    for client in clients:
        client.spinner.close()


@pytest.fixture
def scripted_program():
    """The segzero node with the scripted engines, as a program."""
    return str(HERE / 'scripted_engines.py')


@pytest.fixture
def processes():
    """Starts programs on the domain, as the launch files do; ends what still runs afterwards.

    Without the Fast DDS profile most of the VGA frames between two processes are lost.
    """
    started = []
    old_ros = os.environ.get('ROS_DISTRO') in ('humble', 'jazzy')
    profile = 'FASTRTPS_DEFAULT_PROFILES_FILE' if old_ros else 'FASTDDS_DEFAULT_PROFILES_FILE'

    def start(*command):
        paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
        started.append(
            subprocess.Popen(
                [sys.executable, *command],
                env={
                    **os.environ,
                    profile: str(ROOT / 'config' / 'fastdds.xml'),
                    'PYTHONPATH': os.pathsep.join(filter(None, paths)),
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:  # killed processes leave shared memory that disturbs later ones
        process.send_signal(signal.SIGINT)
    for process in started:
        try:
            output, _ = process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        print(output)  # shown where a test fails
