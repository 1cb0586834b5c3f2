# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 node: messages in, the pipeline, messages out."""
