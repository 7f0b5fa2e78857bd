"""
The port through which a replica is started anew: a process that a load has broken is mended by its end alone.

A recycler ends one replica and sees to it that another starts in its place. It knows neither models nor traffic: that a
replica may be spared is decided before, and the new one's readiness is awaited after.
"""

from __future__ import annotations

from typing import Protocol

from model_release.environment import Environment, KubernetesRecycler, Replica, SupervisorRecycler
from model_release.errors import RecycleFailed


class Recycler(Protocol):
    """Who runs the replicas."""

    def recycle(self, replica: Replica) -> None:
        """
        End the replica, and return once its old process is gone and another is on its way.

        A caller that dies meanwhile leaves a replica that comes back by itself. Raises RecycleFailed.
        """


class Nobody:
    """The recycler of an environment without one."""

    def recycle(self, replica: Replica) -> None:
        """Raise RecycleFailed: there is nobody to do it."""
        raise RecycleFailed(replica.name, "the environment names no recycler")


def connect(environment: Environment) -> Recycler:
    """Return the recycler of an environment."""
    section = environment.recycler
    if isinstance(section, SupervisorRecycler):
        from model_release.triton.recycle_supervisor import Supervisor

        return Supervisor(section)
    if isinstance(section, KubernetesRecycler):
        from model_release.triton.recycle_kubernetes import Kubernetes

        return Kubernetes(section)
    return Nobody()
