"""The trajectory types and Redis: prompts out, groups in, weights across. Nothing else knows Redis."""
