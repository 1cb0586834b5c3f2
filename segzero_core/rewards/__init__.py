# SPDX-License-Identifier: Apache-2.0
"""Rewards of training: ``hardened``, and ``released`` as the original code computes them."""
