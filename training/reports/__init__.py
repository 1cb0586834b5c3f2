# SPDX-License-Identifier: Apache-2.0
"""Reports: tables of measured and published figures, and pages of samples."""
