"""What the run under test is: small, so that much happens in little time."""

from pathlib import Path

from areal.broker.config import BrokerConfig

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "configs" / "models" / "sort"
RUN = "chaos"
WORKERS = ("rollout-0", "rollout-1", "rollout-2")
ROLES = ("learner", *WORKERS)

GROUPS_PER_STEP = 4
GROUP_SIZE = 3
STALENESS = 2
BOUND = (STALENESS + 1) * GROUPS_PER_STEP
"""Prompts and groups that may be outstanding, (η + 1)·B."""

CHECKPOINT_EVERY = 5
MAX_CONCURRENT = 9
BROKER = BrokerConfig(lease_s=2.0, max_attempts=3, timeout_s=30.0)
TAKE_TIMEOUT_S = 90.0
WEIGHTS_TIMEOUT_S = 60.0
ENDLESS = 1_000_000
"""Steps of a run that ends when it is told to."""
