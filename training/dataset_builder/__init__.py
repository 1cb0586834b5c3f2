# SPDX-License-Identifier: Apache-2.0
"""Annotations -> training sets in the released columns."""
