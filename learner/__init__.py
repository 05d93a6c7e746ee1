"""Policies that learn: advantages, objectives, packing, checkpoints, the learner."""
