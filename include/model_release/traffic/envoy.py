"""
The router as Envoy, fed by files.

The route table's own file is the record of every model's route. A writer holds a lock, reads the table, refuses an
older epoch, and replaces the file by renaming, so a reader sees the old table or the new one, whenever a writer dies.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from model_release.environment import FLEETS, Environment
from model_release.errors import RouteNotConfirmed, RouterUnavailable, RouteTakenOver, RouteUnreadable
from model_release.traffic.envoy_admin import EnvoyAdmin
from model_release.traffic.envoy_clusters import Json, split_host, with_clusters
from model_release.traffic.envoy_counts import total
from model_release.traffic.envoy_resources import empty_table, listener, records, response, with_route
from model_release.traffic.envoy_users import writes
from model_release.traffic.router import (
    ARM_COUNTERS,
    CROSS_ARM_RETRY,
    MIRROR,
    NOTHING_SLOW,
    STICKY,
    USERS,
    AffectedUsers,
    ArmCounters,
    Route,
    Slow,
)
from model_release.traffic.user_log import affected_users

LOCK_TIMEOUT_S = 10.0
CLUSTERS_TIMEOUT_S = 5.0
POLL_S = 0.05


class EnvoyRouter:
    """One or more Envoys that read the same directory."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._user_log = environment.router.user_log
        self.capabilities = frozenset(
            {ARM_COUNTERS, STICKY, CROSS_ARM_RETRY, MIRROR, *([USERS] if self._user_log else [])}
        )
        self._directory = environment.router.directory
        self._admins = [EnvoyAdmin(address, environment.call_timeout_s) for address in environment.router.admin]

    def read(self, model: str) -> Route | None:
        """
        Return the route that was last set, or None.

        Raises RouterUnavailable without the file, RouteUnreadable when it does not hold.
        """
        return _read_table(self._directory)[1].get(model)

    def set(self, route: Route) -> None:
        """
        Write the model's clusters, wait until every Envoy has them if they are new, then write its route.

        Raises RouteTakenOver, RouteUnreadable, RouterUnavailable, RouteNotConfirmed; the old route stays then.
        """
        pair = self._environment.pair(route.pair)
        with _locked(self._directory):
            table, held = _read_table(self._directory)
            self._refuse_older(route, held)
            _sweep(self._directory)
            before = _read(self._directory / "cds.json")
            clusters = with_clusters(before, route, pair, held.get(route.model))
            version = _replace(self._directory / "cds.json", clusters)
            if any(cluster not in before for cluster in clusters) or route.model not in held:
                # Only then, so that a later weight, above all 0, is written even while one of several Envoys is down.
                self._await_clusters(route.model, version)
            _replace(self._directory / "rds.json", [with_route(table, route)])

    def _refuse_older(self, route: Route, held: dict[str, Route]) -> None:
        current = held.get(route.model)
        if current is not None and current.epoch > route.epoch:
            raise RouteTakenOver(route.model, route.epoch, current.epoch)

    def _await_clusters(self, model: str, version: str) -> None:
        """A route must not name a cluster that an Envoy does not know yet: it would answer 503."""

        def missing() -> str | None:
            for admin in self._admins:
                update = admin.update("cds")
                if update.version != version:
                    return f"{admin.address} has not taken the clusters of {model}{update.remark}"
            return None

        _wait(model, missing, CLUSTERS_TIMEOUT_S)

    def confirm(self, route: Route, timeout_s: float) -> None:
        """
        Wait until every Envoy serves by this route, whatever other models changed since.

        Raises RouteNotConfirmed after timeout_s, RouterUnavailable when an admin does not answer.
        """

        def differs() -> str | None:
            for admin in self._admins:
                shown = _shown(admin.route_table(), route.model)
                if shown != route:
                    return (
                        f"{admin.address} shows {_words(shown)} instead of {_words(route)}{admin.update('rds').remark}"
                    )
            return None

        _wait(route.model, differs, timeout_s)

    def counters(self, model: str, pair: str) -> dict[str, ArmCounters]:
        """Return the counters by fleet, one scrape of each Envoy. Raises RouterUnavailable."""
        self._environment.pair(pair)
        scrapes = [admin.arms(model) for admin in self._admins]
        return {fleet: total([scrape[fleet] for scrape in scrapes]) for fleet in FLEETS}

    def counters_by_router(self, model: str, pair: str) -> dict[str, dict[str, ArmCounters]]:
        """Return the counters by Envoy and fleet, one scrape of each that answers. Raises RouterUnavailable."""
        self._environment.pair(pair)
        found: dict[str, dict[str, ArmCounters]] = {}
        silent: list[RouterUnavailable] = []
        for admin in self._admins:
            try:
                found[admin.address] = admin.arms(model)
            except RouterUnavailable as error:
                silent.append(error)
        if not found:
            raise silent[0]
        return found

    def counters_by_replica(self, model: str, pair: str) -> dict[str, dict[str, tuple[int, int]]]:
        """Return what each replica was sent, as every Envoy counts it by host. Raises RouterUnavailable."""
        fleets = {fleet: self._environment.pair(pair).fleet(fleet).replicas for fleet in FLEETS}
        named = {
            fleet: {address: replica.name for replica in replicas for address in (replica.http, replica.grpc)}
            for fleet, replicas in fleets.items()
        }
        found: dict[str, dict[str, tuple[int, int]]] = {fleet: {} for fleet in FLEETS}
        for admin in self._admins:
            for fleet, address, requests, failed in admin.hosts(model):
                name = named[fleet].get(address, address)
                before = found[fleet].get(name, (0, 0))
                found[fleet][name] = (before[0] + requests, before[1] + failed)
        return found

    def affected_users(
        self, model: str, version: int, percent: int, since: Mapping[str, Any], slow: Slow = NOTHING_SLOW
    ) -> AffectedUsers | None:
        """
        Return who was affected, by every Envoy's log; None without such logs.

        Raises RouterUnavailable when one cannot be read or, where a release begins, an Envoy does not write it.
        """
        if self._user_log is None:
            return None
        if not since:
            for admin in self._admins:
                self._require_log(admin, self._user_log.path)
        return affected_users(self._user_log.files, model, version, percent, since, slow)

    @staticmethod
    def _require_log(admin: EnvoyAdmin, path: Path) -> None:
        if not any(writes(listener, path) for listener in admin.listeners()):
            why = (
                f"its listener does not log affected users at {path} as this version reads them; start it with the one "
                "that `model_release.traffic.envoy.initialise` writes (docs/traffic.md)"
            )
            raise RouterUnavailable(admin.address, why)


def initialise(environment: Environment, listen_address: str = "127.0.0.1", port: int | None = None) -> None:
    """
    Write the files that Envoy starts from: routes and clusters only where absent, the listener as asked.

    Without a port, the one of `router.http` is taken. Raises RouteUnreadable when a file that is there does not hold.
    """
    directory = environment.router.directory
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):
        _sweep(directory)
        user_log = environment.router.user_log
        clients = listener(directory, listen_address, port or _port(environment), user_log.path if user_log else None)
        _replace(directory / "lds.json", [clients])
        if not (directory / "cds.json").exists():
            _replace(directory / "cds.json", [])
        if not (directory / "rds.json").exists():
            _replace(directory / "rds.json", [empty_table()])
        _read(directory / "cds.json")
        _read_table(directory)


def _port(environment: Environment) -> int:
    return split_host(environment.router.http)[1]


def _shown(table: Json | None, model: str) -> Route | None:
    """Return a model's route in the table that an Envoy shows."""
    try:
        return records(table).get(model) if table is not None else None
    except (LookupError, ValueError, TypeError):
        return None


def _words(route: Route | None) -> str:
    """Say a route in a few words."""
    if route is None:
        return "no route"
    shares = [
        f"{fleet} {route.arm(fleet)} {route.versions[fleet]} {route.weights[fleet]} %"
        for fleet in FLEETS
        if route.arm(fleet)
    ]
    return f"epoch {route.epoch} ({', '.join(shares) or 'nothing released'})"


def _wait(model: str, problem: Callable[[], str | None], timeout_s: float) -> None:
    """Poll until there is no problem. Raises RouteNotConfirmed with the last one after timeout_s."""
    deadline = time.monotonic() + timeout_s
    while (found := problem()) is not None:
        if time.monotonic() >= deadline:
            raise RouteNotConfirmed(model, found)
        time.sleep(POLL_S)


# --- files -------------------------------------------------------------------------------------


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """
    Hold the directory's lock, which dies with its process.

    Raises RouterUnavailable when there is no directory, or another writer keeps the lock too long.
    """
    try:
        descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RouterUnavailable(str(directory), f"its files cannot be written: {error.strerror}") from None
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                why = f"another writer holds its lock for more than {LOCK_TIMEOUT_S:g} s"
                raise RouterUnavailable(str(directory), why)
            time.sleep(POLL_S)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sweep(directory: Path) -> None:
    """Remove what a killed writer left; only the holder of the lock writes, so no such file is in use."""
    for left in directory.glob(".*.new"):
        left.unlink(missing_ok=True)


def _read(path: Path) -> list[Json]:
    """Return the resources of a file. Raises RouterUnavailable without it, RouteUnreadable when it does not hold."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        why = f"{error.strerror}; start the router, which writes its first files"
        raise RouterUnavailable(str(path), why) from None
    try:
        content = json.loads(text)
        resources = content["resources"]
        intact = response(resources) == content
    except (ValueError, KeyError, TypeError) as error:
        raise RouteUnreadable(str(path), f"{type(error).__name__}: {error}") from None
    if not intact:
        raise RouteUnreadable(str(path), "its content does not match its version_info, so it was edited or cut")
    return list(resources)


def _read_table(directory: Path) -> tuple[Json, dict[str, Route]]:
    """Return the route table and the routes it was made of."""
    path = directory / "rds.json"
    resources = _read(path)
    try:
        return resources[0], records(resources[0])
    except (LookupError, ValueError, TypeError) as error:
        raise RouteUnreadable(str(path), f"{type(error).__name__}: {error}") from None


def _replace(path: Path, resources: list[Json]) -> str:
    """Replace a file in one piece, on disk before it is seen, and return its version."""
    content: dict[str, Any] = response(resources)
    text = json.dumps(content, indent=1)
    with suppress(OSError):
        if path.read_text(encoding="utf-8") == text:
            return str(content["version_info"])
    fresh = path.with_name(f".{path.name}.new")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise RouterUnavailable(str(path), f"it cannot be written: {error.strerror}") from None
    return str(content["version_info"])
