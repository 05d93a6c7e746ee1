"""The front door: CLI, configuration, Ray, run directory, logs. Imported by nothing."""
