# SPDX-License-Identifier: Apache-2.0
"""Hypothesis without a time limit: whether a test passes must not depend on a busy machine."""

from hypothesis import settings

settings.register_profile('segzero', deadline=None)
settings.load_profile('segzero')
