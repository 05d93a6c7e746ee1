"""A run that somebody else drives: found, looked at, followed and stopped."""
