"""What is left of a run: its folder, what was recorded, and the letters that died."""
