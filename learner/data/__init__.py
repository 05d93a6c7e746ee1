"""Rows to train on: where they are read or made, how they become prompts, and in which order they come."""
