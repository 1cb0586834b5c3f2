# SPDX-License-Identifier: Apache-2.0
"""The ``rules`` reasoner: no weights, only OpenCV and a small grammar."""

from segzero_core.reasoners.rules.reasoner import RulesReasoner

__all__ = ['RulesReasoner']
