"""Consistency models as both sides see them, who sample and who learn: levels of noise, Gaussian steps, networks."""
