# SPDX-License-Identifier: Apache-2.0
"""Our own log lines in ROS: debug shows them, and not those of rcl."""

import logging

import pytest
from rclpy.logging import LoggingSeverity, get_logger, set_logger_level

from segzero_ros.rosout import PACKAGES, forward_logs

LEVELS = ('debug', 'info', 'warning', 'error', 'critical')


@pytest.fixture
def forwarded(ros):
    """Forwards to a ROS logger of a level; everything is as before afterwards."""
    packages = [logging.getLogger(name) for name in PACKAGES]
    before = [(each.level, each.propagate) for each in packages]
    handlers = []

    def forward(level):
        set_logger_level('forwarded', level)
        handlers.append(forward_logs(get_logger('forwarded')))

    yield forward
    for package, (level, propagate) in zip(packages, before, strict=True):
        package.removeHandler(handlers[-1])
        package.setLevel(level)
        package.propagate = propagate


@pytest.mark.parametrize(
    ('severity', 'shown'),
    [(LoggingSeverity.DEBUG, LEVELS), (LoggingSeverity.INFO, LEVELS[1:])],
)
def test_records_are_shown_from_the_level_of_the_node_on(forwarded, capfd, severity, shown):
    forwarded(severity)
    for package in ('segzero_core.pipeline', 'segzero_ros.perception', 'rcl'):
        for level in LEVELS:
            logger = logging.getLogger(package)
            getattr(logger, level)('%s: a %s line', package, level)
    lines = capfd.readouterr().err.splitlines()
    for level in LEVELS:
        for package in ('segzero_core.pipeline', 'segzero_ros.perception'):
            found = [line for line in lines if f'{package}: a {level} line' in line]
            assert len(found) == (level in shown)
            assert all('[forwarded]' in line for line in found)
    assert not any('rcl: a debug line' in line for line in lines)


def test_a_record_that_cannot_be_formatted_does_not_end_the_program(forwarded, capfd):
    forwarded(LoggingSeverity.INFO)
    logging.getLogger('segzero_core').warning('%d mugs', 'three')
    logging.getLogger('segzero_core').warning('three mugs')
    assert 'three mugs' in capfd.readouterr().err
