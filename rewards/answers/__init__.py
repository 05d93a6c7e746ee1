"""Rewards of the right answer."""
