# SPDX-License-Identifier: Apache-2.0
"""The fast decoding path for Qwen-VL models on one machine."""
