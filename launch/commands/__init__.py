"""The commands of `areal`, a file for each family: what each takes, and what it calls."""
