# SPDX-License-Identifier: Apache-2.0
"""The recipe of the embedded tiny models: from random weights to a reasoner and a SAM 2.

Answers alone teach a small model with random weights nothing for a long time, because it would
have to learn to see, to read and to point at once. For synthetic scenes the object on every image
token is known exactly. A dense loss on the image tokens therefore comes first, and stays while
answers are learnt.
"""

from training.tiny_recipe.reasoner_loop import Phase, ReasonerSettings, train_reasoner

__all__ = ['Phase', 'ReasonerSettings', 'train_reasoner']
