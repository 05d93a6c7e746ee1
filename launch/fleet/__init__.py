"""How many rollout workers a run has, and who they are: scaled by hand, by balance, or joined from elsewhere."""
