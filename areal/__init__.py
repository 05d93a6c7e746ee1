"""areal: asynchronous RL post-training. The code lives in launch/, rollout/, learner/, rewards/ and broker/."""

__version__ = "0.1.0"
