# SPDX-License-Identifier: Apache-2.0
"""Answer text -> boxes, points and reasoning; one module per reading."""
