"""The Ray actor of a role: starts the role as a process of its own on the node where Ray placed it, and waits.

A process of its own because vLLM forks, CUDA and signals want a clean one, and because its memory and its output are
then the role's alone. It ends with the actor, whatever ends that.
"""

from dataclasses import replace

from .process import RoleProcess, own_environment
from .roles import RoleSpec


class RoleActor:
    """Runs one role."""

    def __init__(self, spec: RoleSpec) -> None:
        self._spec = replace(spec, host=_own_host())

    def run(self) -> None:
        """Until the role ends; raises the ArealError that it ended on, or one that tells how its process died."""
        RoleProcess(self._spec, own_environment() | _ray_of_ours()).require_good_end()


def _ray_of_ours() -> dict[str, str]:
    """What a role's process needs to find this Ray for actors of its own."""
    import ray

    address: str = ray.get_runtime_context().gcs_address
    return {"RAY_ADDRESS": address}


def _own_host() -> str:
    """The address by which Ray, and so every node, knows this one."""
    import ray

    host: str = ray.util.get_node_ip_address()
    return host
