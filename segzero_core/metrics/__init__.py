# SPDX-License-Identifier: Apache-2.0
"""Metrics of masks, boxes, points and short answers."""
