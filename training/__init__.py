# SPDX-License-Identifier: Apache-2.0
"""Programs that train and evaluate reasoners. Nothing in ``segzero_core`` imports this."""
