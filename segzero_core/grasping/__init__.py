# SPDX-License-Identifier: Apache-2.0
"""Mask + depth + calibration -> where to grasp. Knows no ROS."""
