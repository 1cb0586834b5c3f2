# SPDX-License-Identifier: Apache-2.0
"""Measuring a reasoner and a segmenter on a dataset."""
