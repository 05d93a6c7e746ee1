"""Rewards of an answer among those of its group."""
