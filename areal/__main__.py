"""`python -m areal` is `areal`."""

from areal.launch.cli import main

main()
