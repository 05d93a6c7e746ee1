"""Weights from memory to memory: what the learner and an engine's processes say to each other, and how the bytes move."""
