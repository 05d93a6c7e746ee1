"""Has a Ray that is started here listen on loopback alone."""

import os

LOCAL_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's own way to say so, which it takes by itself on other systems: 127.0.0.1 given as the node's address is replaced by
one that others reach, and everything listens on all interfaces."""


def keep_ray_on_loopback() -> None:
    """For this process and all that it starts. To be called before anything imports ray, as a user's reward may."""
    os.environ.update(LOCAL_ONLY)
