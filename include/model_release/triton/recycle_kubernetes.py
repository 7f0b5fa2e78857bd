"""
Replicas in Kubernetes: the pod is deleted, and its controller has another in its place.

The environment names a replica's address, so the new pod needs the old one's: a StatefulSet behind a headless Service.
"""

from __future__ import annotations

import ipaddress
import time
from typing import Any

from model_release.environment import KubernetesRecycler, Replica
from model_release.errors import RecycleFailed

_CALL_TIMEOUT_S = 10
_POLL_S = 0.2
_NOT_FOUND, _CONFLICT = 404, 409


class Kubernetes:
    """One namespace of one cluster."""

    def __init__(self, section: KubernetesRecycler) -> None:
        self._section = section

    def recycle(self, replica: Replica) -> None:
        """Delete the replica's pod, and return when it is gone. Raises RecycleFailed."""
        from kubernetes.client import ApiException
        from kubernetes.config import ConfigException
        from urllib3.exceptions import HTTPError

        try:
            self._recycle(replica, self._connect())
        except ApiException as error:
            raise RecycleFailed(replica.name, f"Kubernetes answered {error.status} {error.reason}") from None
        except (ConfigException, HTTPError, OSError) as error:
            raise RecycleFailed(replica.name, f"Kubernetes cannot be asked: {error}") from None

    def _recycle(self, replica: Replica, api: Any) -> None:
        from kubernetes.client import ApiException, V1DeleteOptions, V1Preconditions

        pod = self._pod(replica, api)
        name, uid = pod.metadata.name, pod.metadata.uid
        if not pod.metadata.owner_references:
            raise RecycleFailed(replica.name, f"nothing owns the pod {name}, so nothing would start it again")
        try:
            # By its uid: the pod that has its name when the call arrives may be the next already.
            only = V1DeleteOptions(preconditions=V1Preconditions(uid=uid))
            api.delete_namespaced_pod(name, self._section.namespace, body=only, _request_timeout=_CALL_TIMEOUT_S)
        except ApiException as error:
            if error.status not in {_NOT_FOUND, _CONFLICT}:
                raise
        deadline = time.monotonic() + self._section.stop_s
        while self._uid(name, api) == uid:
            if time.monotonic() > deadline:
                raise RecycleFailed(
                    replica.name, f"its pod {name} was deleted, and is there {self._section.stop_s:g} s later"
                )
            time.sleep(_POLL_S)

    def _pod(self, replica: Replica, api: Any) -> Any:
        """Return the replica's pod: the one that has its IP, else the one of its name."""
        host = replica.grpc.rpartition(":")[0].strip("[]")
        if replica.name in self._section.pods or not _is_ip(host):
            name = self._section.pods.get(replica.name, replica.name)
            return api.read_namespaced_pod(name, self._section.namespace, _request_timeout=_CALL_TIMEOUT_S)
        found = api.list_namespaced_pod(
            self._section.namespace, field_selector=f"status.podIP={host}", _request_timeout=_CALL_TIMEOUT_S
        ).items
        if len(found) != 1:
            raise RecycleFailed(replica.name, f"{len(found)} pods of {self._section.namespace} have the IP {host}")
        return found[0]

    def _uid(self, name: str, api: Any) -> str | None:
        from kubernetes.client import ApiException

        try:
            pod = api.read_namespaced_pod(name, self._section.namespace, _request_timeout=_CALL_TIMEOUT_S)
        except ApiException as error:
            if error.status == _NOT_FOUND:
                return None
            raise
        return str(pod.metadata.uid)

    def _connect(self) -> Any:
        from kubernetes import client, config

        configuration = client.Configuration()
        configuration.retries = 0
        if self._section.kubeconfig is None:
            config.load_incluster_config(client_configuration=configuration)
        else:
            config.load_kube_config(
                str(self._section.kubeconfig), self._section.context, client_configuration=configuration
            )
        return client.CoreV1Api(client.ApiClient(configuration))


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
