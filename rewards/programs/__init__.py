"""Rewards of programs that pass their tests, and the sandbox that these run in."""
