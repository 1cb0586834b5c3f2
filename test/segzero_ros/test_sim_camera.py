# SPDX-License-Identifier: Apache-2.0
"""The simulated camera: its messages fit each other and the scene."""

from pathlib import Path

import numpy as np
import pytest
import rclpy
import yaml
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image

from segzero_core.errors import ParameterError
from segzero_core.grasping.camera_model import read_lens
from segzero_core.synthetic import make_scene
from segzero_core.types import Size
from segzero_ros.demo import CONFIGS, KINDS, choose_queries
from segzero_ros.images import NumpyCodec, image_to_array
from segzero_ros.sim_camera import SEED, SimCamera


class Viewer:
    """Takes one frame of three messages at a time."""

    def __init__(self, namespace, **parameters):
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.camera = SimCamera(namespace=namespace, parameter_overrides=overrides)
        self.node = rclpy.create_node('viewer', namespace=namespace)
        self.executor = rclpy.executors.SingleThreadedExecutor()
        self.kept = {}
        for name, kind in {'image': Image, 'depth': Image, 'camera_info': CameraInfo}.items():
            self.kept[name] = []
            self.node.create_subscription(kind, name, self.kept[name].append, 10)
        self.executor.add_node(self.camera)
        self.executor.add_node(self.node)

    def frame(self, fits=lambda image, depth, info: True):
        """Return (image, depth, info) of one stamp, the first that fits."""
        for _ in range(4000):
            self.executor.spin_once(timeout_sec=0.01)
            by_stamp = [
                {(m.header.stamp.sec, m.header.stamp.nanosec): m for m in kept}
                for kept in self.kept.values()
            ]
            for stamp in set.intersection(*(set(kept) for kept in by_stamp)):
                frame = [kept[stamp] for kept in by_stamp]
                if fits(*frame):
                    return frame
        return pytest.fail('no such frame')

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        self.camera.destroy_node()


@pytest.fixture
def view(ros):
    viewers = []

    def start(**parameters):
        viewers.append(Viewer(next(ros), rate=100.0, **parameters))
        return viewers[-1]

    yield start
    for viewer in viewers:
        viewer.close()


@pytest.mark.parametrize('encoding', ['16UC1', '32FC1'])
def test_a_frame_shows_the_scene_of_its_seed(view, encoding):
    image, depth, info = view(seed=5, depth_encoding=encoding).frame()
    scene = make_scene(5)
    np.testing.assert_array_equal(image_to_array(image), scene.image)
    assert image.encoding == 'rgb8'
    assert depth.encoding == encoding
    assert {m.header.frame_id for m in (image, depth, info)} == {'camera_color_optical_frame'}
    metres = NumpyCodec().depth(depth)
    valid = np.isfinite(metres) & (metres > 0)
    assert 0.9 < valid.mean() < 0.999
    error = metres[valid] - scene.depth[valid]
    assert abs(np.median(error)) < 0.001
    assert 0.002 < error.std() < 0.02  # a sensor's noise, and no bias
    size = Size(scene.image.shape[1], scene.image.shape[0])
    intrinsics, distortion = read_lens(info, size, rectified=False)
    assert intrinsics == pytest.approx(scene.intrinsics)
    assert distortion is None
    if encoding == '32FC1':
        assert np.isnan(metres[~valid]).all()


def test_the_depths_noise_changes_from_frame_to_frame(view):
    viewer = view()
    first = viewer.frame()[1]
    viewer.frame(lambda image, depth, info: depth.data != first.data)


def test_another_seed_is_another_scene(view):
    viewer = view(seed=5)
    viewer.frame()
    viewer.camera.set_parameters([Parameter('seed', value=6)])
    other = make_scene(6).image
    viewer.frame(lambda image, depth, info: np.array_equal(image_to_array(image), other))


@pytest.mark.parametrize(
    ('name', 'value'), [('seed', -1), ('seed', 'x'), ('rate', 0.0), ('depth_encoding', 'rgb8')]
)
def test_parameters_that_cannot_be_used(view, name, value):
    with pytest.raises(ParameterError, match=f'{name} must be'):
        SimCamera(parameter_overrides=[Parameter(name, value=value)])


def test_a_bad_seed_is_refused_while_running(view):
    viewer = view(seed=5)
    (result,) = viewer.camera.set_parameters([Parameter('seed', value=-3)])
    assert not result.successful


def test_the_demonstrations_show_one_scene_and_ask_about_it():
    """`make demo` asks three sentences; the launch file, which needs no scene, repeats one."""
    root = Path(__file__).resolve().parents[2]
    queries = choose_queries(make_scene(SEED))
    assert tuple(query.kind for query in queries) == KINDS
    launch_file = (root / 'launch' / 'demo.launch.py').read_text(encoding='utf-8')
    assert any(f"default_value='{query.text}'" in launch_file for query in queries)
    for name in CONFIGS.values():
        config = yaml.safe_load((root / 'config' / name).read_text(encoding='utf-8'))
        assert config['/**/sim_camera']['ros__parameters']['seed'] == SEED
