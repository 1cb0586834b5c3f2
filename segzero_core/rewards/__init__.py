# SPDX-License-Identifier: Apache-2.0
"""Rewards for training: ours (``hardened``) and the original code's (``released``)."""
