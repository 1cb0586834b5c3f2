# SPDX-License-Identifier: Apache-2.0
"""Teaches a small Qwen2.5-VL where things are, before it is trained like a large one.

From random weights, answers alone teach a small model nothing for a long while: it would have to
learn to see, to read and to point at the same time. Synthetic scenes say exactly what is on every
image token, so a dense loss there comes first, and stays while the answers are learned.
"""

from training.tiny_recipe.reasoner_loop import Phase, ReasonerSettings, train_reasoner

__all__ = ['Phase', 'ReasonerSettings', 'train_reasoner']
