# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a reasoner and a segmenter on a dataset."""
