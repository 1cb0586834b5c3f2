# SPDX-License-Identifier: Apache-2.0
"""The installed files; manifest, setup, launch files and parameter files agree."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

setuptools = pytest.importorskip('setuptools', reason='needs setuptools: pip install setuptools')

ROOT = Path(__file__).resolve().parent.parent
OURS = ('segzero_core', 'segzero_ros')
# Import name -> rosdep key, where they differ.
KEYS = {
    'numpy': 'python3-numpy',
    'cv2': 'python3-opencv',
    'PIL': 'python3-pil',
    'yaml': 'python3-yaml',
    'tf2_ros': 'tf2_ros_py',  # the package tf2_ros is C++ alone
}
# Imported only by the engine or codec that was asked for; see the comment in package.xml.
OPTIONAL = {
    'cv_bridge',
    'datasets',
    'httpx2',
    'huggingface_hub',
    'openai',
    'pyarrow',
    'pycocotools',
    'rosbags',
    'safetensors',
    'sam2',
    'tokenizers',
    'torch',
    'transformers',
    'vllm',
}


@pytest.fixture(scope='module')
def setup() -> dict[str, Any]:
    """Return the arguments that setup.py gives to ``setuptools.setup``."""
    given: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(setuptools, 'setup', lambda **arguments: given.update(arguments))
        runpy.run_path('setup.py')
    return given


@pytest.fixture(scope='module')
def manifest() -> ElementTree.Element:
    return ElementTree.parse(ROOT / 'package.xml').getroot()


def text(manifest: ElementTree.Element, path: str) -> str:
    value = manifest.findtext(path)
    assert value, f'package.xml has no {path}'
    return value.strip()


def test_manifest_makes_this_an_ament_python_package(manifest: ElementTree.Element) -> None:
    # colcon takes a package with an invalid manifest for plain Python, without a word.
    assert manifest.attrib['format'] == '3'
    assert text(manifest, 'name') == 'segzero_ros'
    assert text(manifest, 'export/build_type') == 'ament_python'
    assert re.fullmatch(r'\d+\.\d+\.\d+', text(manifest, 'version'))
    assert text(manifest, 'maintainer')
    maintainer = manifest.find('maintainer')
    assert maintainer is not None
    assert re.fullmatch(r'[\w.+-]+@[\w-]+(\.[\w-]+)+', maintainer.attrib['email'])


def test_manifest_is_valid_to_catkin_pkg() -> None:
    package = pytest.importorskip(
        'catkin_pkg.package', reason='needs catkin_pkg, which comes with colcon'
    )
    warnings: list[str] = []
    parsed = package.parse_package(str(ROOT), warnings=warnings)
    parsed.validate(warnings=warnings)
    assert warnings == []


def test_manifest_and_setup_agree(setup: dict[str, Any], manifest: ElementTree.Element) -> None:
    assert setup['name'] == text(manifest, 'name')
    assert setup['version'] == text(manifest, 'version')
    assert setup['license'] == text(manifest, 'license') == 'Apache-2.0'
    assert setup['maintainer'] == text(manifest, 'maintainer')
    assert 'Apache License' in (ROOT / 'LICENSE').read_text(encoding='utf-8')[:200]


def test_every_package_of_ours_is_installed_and_nothing_else(setup: dict[str, Any]) -> None:
    expected = {
        '.'.join(path.parent.relative_to(ROOT).parts)
        for name in OURS
        for path in (ROOT / name).rglob('__init__.py')
    }
    assert set(setup['packages']) == expected
    assert {name.split('.')[0] for name in setup['packages']} == set(OURS)


def test_every_module_lies_in_a_package(setup: dict[str, Any]) -> None:
    folders = {
        '.'.join(p.parent.relative_to(ROOT).parts) for n in OURS for p in (ROOT / n).rglob('*.py')
    }
    assert folders == set(setup['packages'])


def test_embedded_models_are_installed(setup: dict[str, Any]) -> None:
    core = ROOT / 'segzero_core'
    patterns = setup['package_data']['segzero_core']
    installed = {path for pattern in patterns for path in core.glob(pattern)}
    files = {path for path in (core / 'models').rglob('*') if path.is_file()}
    assert {path.parent.name for path in files} == {'tiny', 'tiny_base', 'tiny_sam2'}
    assert files <= installed


def test_launch_and_config_files_are_installed(setup: dict[str, Any]) -> None:
    installed = {
        Path(target, Path(name).name) for target, names in setup['data_files'] for name in names
    }
    share = Path('share/segzero_ros')
    for folder in ('launch', 'config'):
        files = [path for path in (ROOT / folder).iterdir() if path.is_file()]
        assert files
        for path in files:
            assert share / folder / path.name in installed
    assert share / 'package.xml' in installed
    assert Path('share/ament_index/resource_index/packages/segzero_ros') in installed
    assert all((ROOT / name).is_file() for _, names in setup['data_files'] for name in names)


def test_every_program_has_its_function(setup: dict[str, Any]) -> None:
    programs = dict(line.split(' = ') for line in setup['entry_points']['console_scripts'])
    assert set(programs) == {
        'segzero',
        'segzero_ask',
        'segzero_demo',
        'segzero_model_server',
        'segzero_node',
        'segzero_sample_bag',
        'sim_camera',
    }
    for target in programs.values():
        module, function = target.split(':')
        tree = ast.parse((ROOT / f'{module.replace(".", "/")}.py').read_text(encoding='utf-8'))
        names = {item.name for item in tree.body if isinstance(item, ast.FunctionDef)}
        assert function in names, f'{target} is missing'


def test_extras_are_the_requirement_files(setup: dict[str, Any]) -> None:
    extras = setup['extras_require']
    files = {path.stem for path in (ROOT / 'requirements').glob('*.txt')}
    assert set(extras) == files | {'test'}
    assert any(line.startswith('numpy') for line in extras['core'])
    lines = [line for extra in extras.values() for line in extra]
    assert not [line for line in lines if line.startswith('-') or '#' in line]
    # A requirement outright would fail under ROS, whose numpy and OpenCV come by apt.
    assert not setup.get('install_requires')
    assert 'pytest' in extras['test']  # without it `colcon test` runs nothing


def imported(path: Path) -> set[str]:
    """Return the top-level names that a file imports from elsewhere."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split('.')[0])
    return names - sys.stdlib_module_names - set(OURS)


def test_everything_imported_is_declared(manifest: ElementTree.Element) -> None:
    folders = (*OURS, 'launch')
    names = set().union(*(imported(path) for f in folders for path in (ROOT / f).rglob('*.py')))
    declared = {
        (item.text or '').strip()
        for tag in ('depend', 'exec_depend')
        for item in manifest.iter(tag)
    }
    wanted = {KEYS.get(name, name) for name in names - OPTIONAL}
    assert wanted - declared == set(), 'imported, but not in package.xml'
    assert declared - wanted == set(), 'in package.xml, but imported nowhere'


def parameters(file: str, node: str) -> dict[str, Any]:
    """Return what a parameter file says about a node, by dotted name."""
    document = yaml.safe_load((ROOT / 'config' / file).read_text(encoding='utf-8'))
    found: dict[str, Any] = {}

    def flatten(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                flatten(f'{prefix}.{key}' if prefix else key, item)
        else:
            found[prefix] = value

    for pattern, section in document.items():
        if pattern in ('/**', f'/**/{node}'):
            flatten('', section['ros__parameters'])
    return found


@pytest.mark.parametrize(
    'file', ['segzero.yaml', 'demo.yaml', 'demo_rules.yaml', '../deploy/model_server.yaml']
)
def test_node_takes_every_parameter_of_the_file(file: str) -> None:
    pytest.importorskip('rclpy', reason='needs rclpy: make test installs it, or source ROS 2')
    from segzero_ros.settings import PARAMETERS

    given = parameters(file, 'segzero')
    assert given
    for name, value in given.items():
        assert name in PARAMETERS, f'{file} sets {name}, which the node does not declare'
        assert PARAMETERS[name].problem(value) is None, f'{file}: {name}'


def test_parameter_file_to_copy_shows_every_parameter() -> None:
    pytest.importorskip('rclpy', reason='needs rclpy: make test installs it, or source ROS 2')
    from segzero_ros.settings import PARAMETERS

    # autostart is the launch argument's.
    assert set(parameters('segzero.yaml', 'segzero')) | {'autostart'} == set(PARAMETERS)


@pytest.mark.parametrize('file', ['demo.yaml', 'demo_rules.yaml'])
def test_camera_takes_every_parameter_of_the_demo(file: str) -> None:
    pytest.importorskip('rclpy', reason='needs rclpy: make test installs it, or source ROS 2')
    from segzero_ros.sim_camera import PARAMETERS

    given = parameters(file, 'sim_camera')
    assert set(given) == set(PARAMETERS)
    assert all(PARAMETERS[name].problem(value) is None for name, value in given.items())
