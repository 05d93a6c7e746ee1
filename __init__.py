"""The checkout's root: its folders are installed as `areal.*` (see areal/)."""
