# SPDX-License-Identifier: Apache-2.0
"""Finished evaluations beside published figures, and pages of their samples."""
