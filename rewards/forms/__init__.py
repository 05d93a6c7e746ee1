"""Rewards of the right form: what a text looks like, and how long it is."""
