# SPDX-License-Identifier: Apache-2.0
"""The fast decoding path for Qwen-VL models in this process.

``DecodeEngine`` is the public face; the other modules are its parts and are imported from here
only. The README of this folder says what each part buys, measured on what, and when it can go.
"""

from segzero_core.reasoners.decode.engine import DecodeEngine, EncodedPrompt

__all__ = ['DecodeEngine', 'EncodedPrompt']
