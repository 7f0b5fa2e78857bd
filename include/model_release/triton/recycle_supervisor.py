"""
Replicas under supervisord: a signal over its Unix socket, and supervisord starts the program again by itself.

Stop and start would be two calls; a caller that dies between them would leave the replica stopped.
"""

from __future__ import annotations

import http.client
import socket
import time
import xmlrpc.client
from pathlib import Path
from typing import Any

from model_release.environment import Replica, SupervisorRecycler
from model_release.errors import RecycleFailed

_CALL_TIMEOUT_S = 10
_POLL_S = 0.1
_KILLED_WITHIN_S = 10
#: supervisord's states of a program that nobody stopped, and that it does not start again by itself.
_ENDED = frozenset({"EXITED", "FATAL"})
#: supervisor.xmlrpc.Faults.NOT_RUNNING
_NOT_RUNNING = 70


class Supervisor:
    """One supervisord."""

    def __init__(self, section: SupervisorRecycler) -> None:
        self._section = section

    def recycle(self, replica: Replica) -> None:
        """End the replica's program gently, then by force, and see that it starts again. Raises RecycleFailed."""
        program = self._section.programs.get(replica.name, replica.name)
        try:
            self._recycle(replica, program)
        except xmlrpc.client.Fault as fault:
            raise RecycleFailed(replica.name, f"supervisord says of {program}: {fault.faultString}") from None
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            why = f"supervisord does not answer at {self._section.socket}: {error!r}"
            raise RecycleFailed(replica.name, why) from None

    def _recycle(self, replica: Replica, program: str) -> None:
        before = self._call("getProcessInfo", program)
        if before["statename"] == "STOPPED":
            raise RecycleFailed(replica.name, f"{program} was stopped at supervisord, which is somebody's decision")
        for signal, within_s in (("TERM", self._section.stop_s), ("KILL", _KILLED_WITHIN_S)):
            if self._has_ended(program, before["pid"], 0):
                break
            self._signal(program, signal)
            if self._has_ended(program, before["pid"], within_s):
                break
        else:
            raise RecycleFailed(replica.name, f"{program} (process {before['pid']}) outlived a SIGKILL")
        if self._call("getProcessInfo", program)["statename"] in _ENDED:
            self._call("startProcess", program, False)

    def _signal(self, program: str, signal: str) -> None:
        """Signal the program, which may have ended in this moment."""
        try:
            self._call("signalProcess", program, signal)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != _NOT_RUNNING:
                raise

    def _has_ended(self, program: str, pid: int, within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while pid and self._call("getProcessInfo", program)["pid"] == pid:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def _call(self, method: str, *arguments: Any) -> Any:
        with xmlrpc.client.ServerProxy("http://supervisord", transport=_OverSocket(self._section.socket)) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)


class _OverSocket(xmlrpc.client.Transport):
    """XML-RPC over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        """Return a connection to the socket, whatever the host is called."""
        del host
        return _Connection(self._path)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("supervisord", timeout=_CALL_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_CALL_TIMEOUT_S)
        self.sock.connect(str(self._path))
