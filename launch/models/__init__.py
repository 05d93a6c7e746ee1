"""The model of a run: found, sized, tried, made, and taken out of a run again."""
