"""The reward contract, the isolated pool, and the bundled rewards."""
