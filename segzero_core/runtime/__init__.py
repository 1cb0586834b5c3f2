# SPDX-License-Identifier: Apache-2.0
"""Checkpoints, threads, memory and compilation: how models are loaded and run."""
