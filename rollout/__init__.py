"""Engines that act, workflows, and the rollout worker."""
