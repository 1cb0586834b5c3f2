# SPDX-License-Identifier: Apache-2.0
"""Command lines that train and measure reasoners. Nothing in ``segzero_core`` imports this."""
