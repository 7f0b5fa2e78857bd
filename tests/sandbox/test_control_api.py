"""Who may control a replica: the holder of the key, at the replica itself; through the router nobody."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from pydantic import SecretStr
from tritonclient.grpc import service_pb2, service_pb2_grpc

from model_release.environment import Environment
from model_release.errors import ControlRefused
from model_release.triton.fleet import load_everywhere, loaded_versions, unload_everywhere
from model_release.triton.replica import key_header
from tests.sandbox.conftest import Sandbox
from tests.sandbox.routed_parts import MODEL, VERSION, infer_by_grpc, routed, serves_by_http
from tests.sandbox.routed_parts import http as ask

__all__ = ["routed"]

REGION = {"key": "/x", "offset": 0, "byte_size": 64}
CUDA = {"raw_handle": {"b64": "AA=="}, "device_id": 0, "byte_size": 64}
#: Every verb of Triton's HTTP API that loads, unloads, or reads or writes a setting.
CONTROL_OVER_HTTP: list[tuple[str, str, Any]] = [
    ("POST", "repository/index", {}),
    ("POST", f"repository/models/{MODEL}/load", {}),
    ("POST", f"repository/models/{MODEL}/unload", {}),
    ("GET", f"models/{MODEL}/config", None),
    ("GET", f"models/{MODEL}/versions/{VERSION}/config", None),
    ("GET", "logging", None),
    ("POST", "logging", {"log_verbose_level": 1}),
    ("GET", "trace/setting", None),
    ("POST", "trace/setting", {"trace_level": ["TIMESTAMPS"]}),
    ("GET", f"models/{MODEL}/trace/setting", None),
    ("POST", f"models/{MODEL}/trace/setting", {"trace_rate": "1"}),
    *(
        call
        for kind, region in (("system", REGION), ("cuda", CUDA))
        for call in (
            ("GET", f"{kind}sharedmemory/status", None),
            ("GET", f"{kind}sharedmemory/region/x/status", None),
            ("POST", f"{kind}sharedmemory/region/x/register", region),
            ("POST", f"{kind}sharedmemory/region/x/unregister", {}),
            ("POST", f"{kind}sharedmemory/unregister", {}),
        )
    ),
]
#: Other spellings of a path that a router might take for one it routes.
DISGUISED = [
    f"models/{MODEL}/../../repository/index",
    f"models/{MODEL}/infer/../../../repository/models/{MODEL}/unload",
    f"models/{MODEL}%2f..%2f..%2frepository%2findex",
    f"models/{MODEL}/infer;/../config",
    f"/models/{MODEL}/config",
]
OPEN_OVER_HTTP = [
    "health/live",
    "health/ready",
    f"models/{MODEL}/ready",
    f"models/{MODEL}/versions/{VERSION}/ready",
    f"models/{MODEL}",
    f"models/{MODEL}/stats",
]
CONTROL_OVER_GRPC: list[tuple[str, Any]] = [
    ("RepositoryIndex", service_pb2.RepositoryIndexRequest()),
    ("RepositoryModelLoad", service_pb2.RepositoryModelLoadRequest(model_name=MODEL)),
    ("RepositoryModelUnload", service_pb2.RepositoryModelUnloadRequest(model_name=MODEL)),
    ("ModelConfig", service_pb2.ModelConfigRequest(name=MODEL)),
    ("LogSettings", service_pb2.LogSettingsRequest()),
    ("TraceSetting", service_pb2.TraceSettingRequest(model_name=MODEL)),
    ("SystemSharedMemoryStatus", service_pb2.SystemSharedMemoryStatusRequest()),
    ("SystemSharedMemoryRegister", service_pb2.SystemSharedMemoryRegisterRequest(name="x", key="/x", byte_size=64)),
    ("SystemSharedMemoryUnregister", service_pb2.SystemSharedMemoryUnregisterRequest()),
    ("CudaSharedMemoryStatus", service_pb2.CudaSharedMemoryStatusRequest()),
    ("CudaSharedMemoryRegister", service_pb2.CudaSharedMemoryRegisterRequest(name="x", byte_size=64)),
    ("CudaSharedMemoryUnregister", service_pb2.CudaSharedMemoryUnregisterRequest()),
]
OPEN_OVER_GRPC: list[tuple[str, Any]] = [
    ("ServerLive", service_pb2.ServerLiveRequest()),
    ("ServerReady", service_pb2.ServerReadyRequest()),
    ("ModelReady", service_pb2.ModelReadyRequest(name=MODEL)),
    ("ModelMetadata", service_pb2.ModelMetadataRequest(name=MODEL)),
    ("ModelStatistics", service_pb2.ModelStatisticsRequest(name=MODEL)),
]


def key_of(environment: Environment) -> tuple[str, str]:
    assert environment.triton_key is not None
    name, _, value = environment.triton_key.get_secret_value().partition("=")
    return name, value


def wrong_keys(environment: Environment) -> list[dict[str, str]]:
    """Headers that are not the key: nothing, no value, a part, more, another name, the name of the other protocol."""
    name, value = key_of(environment)
    other = f"triton-grpc-protocol-{name}"
    values = ["", "wrong", value[:-1], f"{value}0", value.upper()]
    return [{}, *({header: each} for header in (name, other) for each in values)]


def raw(address: str, method: str, path: str, headers: Mapping[str, str]) -> int:
    """Ask with the path as it is; a client library would tidy it up."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in {**headers, "content-length": "2"}.items():
            connection.putheader(name, value)
        connection.endheaders(b"{}")
        return connection.getresponse().status
    finally:
        connection.close()


def call(address: str, verb: str, request: Any, headers: Mapping[str, str]) -> grpc.StatusCode:
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            getattr(stub, verb)(request, metadata=tuple(headers.items()), timeout=10)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def test_a_replica_lets_nobody_control_it_without_the_key_over_http(sandbox: Sandbox, routed: str) -> None:
    replica = sandbox.environment.pairs["default"].blue.replicas[0]
    name, value = key_of(sandbox.environment)
    for method, path, body in CONTROL_OVER_HTTP:
        for headers in ({}, {name: "wrong"}):
            status, _, text = ask(method, f"{replica.http}/v2/{path}", body, headers)
            assert (status, "restricted" in text) == (403, True), (method, path, headers, text)
    for headers in wrong_keys(sandbox.environment):
        status, _, _ = ask("POST", f"{replica.http}/v2/repository/models/{MODEL}/unload", {}, headers)
        assert status == 403, list(headers)
    for path in DISGUISED:
        assert raw(replica.http, "POST", f"/v2/{path}", {}) in {400, 403, 404, 405}, path
    assert [path for path in OPEN_OVER_HTTP if ask("GET", f"{replica.http}/v2/{path}")[0] != 200] == []
    assert loaded_versions(replica, MODEL, sandbox.environment) == [VERSION]
    # The key opens them: what refused above is the key, not the verb.
    assert ask("POST", f"{replica.http}/v2/repository/index", {}, {name: value})[0] == 200
    status, _, settings = ask("GET", f"{replica.http}/v2/logging", None, {name: value})
    assert (status, '"log_verbose_level":0' in settings) == (200, True), settings


def test_a_replica_lets_nobody_control_it_without_the_key_over_grpc(sandbox: Sandbox, routed: str) -> None:
    replica = sandbox.environment.pairs["default"].blue.replicas[0]
    for verb, request in CONTROL_OVER_GRPC:
        assert call(replica.grpc, verb, request, {}) == grpc.StatusCode.UNAVAILABLE, verb
    for headers in wrong_keys(sandbox.environment):
        if headers.get(next(iter(key_header(sandbox.environment)))) != key_of(sandbox.environment)[1]:
            unload = service_pb2.RepositoryModelUnloadRequest(model_name=MODEL)
            assert call(replica.grpc, "RepositoryModelUnload", unload, headers) == grpc.StatusCode.UNAVAILABLE
    answers = {verb: call(replica.grpc, verb, request, {}) for verb, request in OPEN_OVER_GRPC}
    assert set(answers.values()) == {grpc.StatusCode.OK}, answers
    assert loaded_versions(replica, MODEL, sandbox.environment) == [VERSION]


def test_the_router_lets_nobody_control_a_replica_even_with_the_key(sandbox: Sandbox, routed: str) -> None:
    name, value = key_of(sandbox.environment)
    for headers in ({}, {name: value}):
        for method, path, body in CONTROL_OVER_HTTP:
            assert ask(method, f"{routed}/v2/{path}", body, headers)[0] == 404, (method, path)
        for path in DISGUISED:
            assert raw(routed, "POST", f"/v2/{path}", headers) in {400, 404}, path
    for headers in ({}, key_header(sandbox.environment)):
        for verb, request in CONTROL_OVER_GRPC:
            found = call(routed, verb, request, {**headers, "x-model": MODEL})
            assert found == grpc.StatusCode.UNIMPLEMENTED, verb
    assert serves_by_http(routed)
    assert infer_by_grpc(routed) == [3.0, -4.0]


def test_a_missing_or_wrong_key_in_the_environment_is_one_sentence(environment: Environment, routed: str) -> None:
    blue, name = environment.pairs["default"].blue, key_of(environment)[0]
    missing = environment.model_copy(update={"triton_key": None})
    wrong = environment.model_copy(update={"triton_key": SecretStr(f"{name}=wrong")})
    for environ, words in ((missing, "the environment has no triton_key"), (wrong, "does not open it")):
        with pytest.raises(ControlRefused, match=f"triton-blue-0.*'{name}'.*{words}.*Set triton_key"):
            load_everywhere(blue, MODEL, VERSION, environ, lambda: None)
        with pytest.raises(ControlRefused, match=words):
            unload_everywhere(blue, MODEL, environ, lambda: None)
    assert serves_by_http(routed)


def test_the_key_is_kept_from_logs_and_from_whoever_may_read_files(sandbox: Sandbox, routed: str) -> None:
    value = key_of(sandbox.environment)[1]
    for pattern in ("logs/*", "*"):
        for path in sandbox.home.folder.glob(pattern):
            if path.is_file() and value in path.read_text(errors="replace"):
                assert pattern == "*", f"{path} is a log"
                assert path.stat().st_mode & 0o077 == 0, path
    commands = sandbox.of_each_process(lambda process: (process.name(), process.cmdline()))
    shown = {name for name, command in commands if any(value in word for word in command)}
    assert shown == {"tritonserver"}, "it takes the key from its command line alone"
