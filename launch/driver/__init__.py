"""The driver of a run: starts it, follows it, shows it, and ends it; in a terminal, or without one."""
