"""Where things run: S3, the fleets, the router. One YAML file, or Airflow's Connection `model_release`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, model_validator

from model_release.errors import BadModelConfig
from model_release.spec import ChangePolicy, Section
from model_release.spec_files import parse_section

ENVIRONMENT_VARIABLE = "MODEL_RELEASE_ENVIRONMENT"
FLEETS = ("blue", "green")
#: A header's name, and a value that a command line and a header both carry as it is.
_TRITON_KEY = re.compile(r"[a-z][a-z0-9-]*=[!-~]+")


def _header_and_value(key: SecretStr) -> SecretStr:
    if not _TRITON_KEY.fullmatch(key.get_secret_value()):
        raise ValueError("it is no name=value of lower-case letters, digits and -, and of visible characters")
    return key


def _no_edge_slashes(prefix: str) -> str:
    return prefix.strip("/")


class S3(Section):
    """The bucket of the archive, the serving prefixes and the ledger; without keys, boto3's own chain is used."""

    endpoint_url: str | None = None
    region: str = "us-east-1"
    bucket: str
    prefix: Annotated[str, AfterValidator(_no_edge_slashes)] = ""
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None


class Replica(Section):
    """One Triton server: host:port of its three listeners."""

    name: str
    http: str
    grpc: str
    metrics: str


class Fleet(Section):
    """The replicas that read one serving prefix."""

    replicas: Annotated[list[Replica], Field(min_length=1)]
    load_batch: Annotated[int, Field(ge=1)] = 1
    """How many replicas load a version at once; fewer where another model would be ready on none of the others."""


class FleetPair(Section):
    """Two equal fleets that take turns, and the bench that never has traffic."""

    blue: Fleet
    green: Fleet
    bench: Fleet

    @model_validator(mode="after")
    def _bench_is_one_replica(self) -> FleetPair:
        if len(self.bench.replicas) != 1:
            message = f"bench is one replica, got {len(self.bench.replicas)}"
            raise ValueError(message)
        return self

    def fleet(self, name: str) -> Fleet:
        """Return `blue`, `green` or `bench`."""
        return {"blue": self.blue, "green": self.green, "bench": self.bench}[name]


class UserLog(Section):
    """Where each Envoy writes whose requests failed or were slow, so that with sticky arms a user counts as one."""

    path: Path
    """As an Envoy sees it, in its own file system."""
    read: list[Path] = []
    """The same files, one an Envoy, as they are seen here; by default `path`."""

    @property
    def files(self) -> list[Path]:
        """The files as they are seen here."""
        return self.read or [self.path]


class EnvoyRouter(Section):
    """Envoy, fed by files: `directory` holds its listener, cluster and route files."""

    kind: Literal["envoy_files"] = "envoy_files"
    directory: Path
    admin: Annotated[list[str], Field(min_length=1)]
    """host:port of the admin of every Envoy that reads the directory."""
    http: str
    """host:port where clients speak HTTP and gRPC."""
    user_log: UserLog | None = None
    """Without it, errors and latency are counted by request also where arms are sticky."""

    @model_validator(mode="after")
    def _each_envoy_has_a_log(self) -> EnvoyRouter:
        """Of several Envoys, each writes a file of its own or all write one: only who set them up knows."""
        if self.user_log is not None and not self.user_log.read and len(self.admin) > 1:
            message = f"user_log.read has to name where the logs of all {len(self.admin)} Envoys are seen here"
            raise ValueError(message)
        return self


class NoRecycler(Section):
    """Nobody but a person starts a replica anew."""

    kind: Literal["none"] = "none"


class SupervisorRecycler(Section):
    """supervisord, which starts a replica again when it ends (autorestart=true)."""

    kind: Literal["supervisor"]
    socket: Path
    """Its Unix socket."""
    programs: dict[str, str] = {}
    """The program of a replica where it has another name than the replica."""
    stop_s: Annotated[float, Field(ge=0)] = 8
    """How long a replica may take to end before it is killed."""


class KubernetesRecycler(Section):
    """Kubernetes: the pod is deleted, and its StatefulSet has another of the same name and address."""

    kind: Literal["kubernetes"]
    namespace: str
    kubeconfig: Path | None = None
    """Without it, the pod's own service account is used."""
    context: str | None = None
    pods: dict[str, str] = {}
    """The pod of a replica where it has another name than the replica; an IP as the replica's address finds it too."""
    stop_s: Annotated[float, Field(gt=0)] = 120
    """How long a pod may take to be gone, its own grace period included."""


Recycler = Annotated[NoRecycler | SupervisorRecycler | KubernetesRecycler, Field(discriminator="kind")]


class PrometheusMetrics(Section):
    """Prometheus, or what speaks its query API: where the gates of kind `proportion` read the users' own counters."""

    kind: Literal["prometheus"] = "prometheus"
    url: Annotated[str, Field(pattern=r"^https?://")]
    bearer_token: SecretStr | None = None
    stale_after_s: Annotated[float, Field(gt=0)] = 60
    """An older newest sample is an outage; longer than Prometheus' scrape interval."""


class PerfAnalyzer(Section):
    """The load generator of the benchmark."""

    command: list[str] = ["perf_analyzer"]


class Signing(Section):
    """Who signs what is sealed, and whose signatures are believed: OpenSSF Model Signing, by EC keys."""

    private_key: Path | None = None
    """PEM of the signer's key: P-256, P-384 or P-521."""
    private_key_password: SecretStr | None = None
    pkcs11_uri: SecretStr | None = None
    """In place of a file: the signer's key in a token, by RFC 7512; it may hold the PIN."""
    pkcs11_modules: list[Path] = []
    """Folders in which the URI's module-name is looked for."""
    trusted: list[Path] = []
    """PEM of each pinned signer's public key; several while one takes over from another."""
    require: bool = False
    """Nothing is put on a fleet unless a pinned signer signed it and each of its bytes is as it was signed."""

    @property
    def signs(self) -> bool:
        """Whether there is a signer."""
        return self.private_key is not None or self.pkcs11_uri is not None

    @model_validator(mode="after")
    def _holds_together(self) -> Signing:
        if self.private_key is not None and self.pkcs11_uri is not None:
            raise ValueError("private_key and pkcs11_uri are two signers: name one")
        if self.private_key_password is not None and self.private_key is None:
            raise ValueError("private_key_password is there without a private_key")
        if self.require and not self.trusted:
            raise ValueError("require needs at least one public key in trusted")
        return self


class Channel(Section):
    """
    Where messages of one connection go: Apprise URLs, one a line, which hold the secret of the place.

    Best by reference: a file, such as a mounted secret, or an environment variable of the process.
    """

    url: SecretStr | None = None
    url_file: Path | None = None
    url_variable: str | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Channel:
        if sum(given is not None for given in (self.url, self.url_file, self.url_variable)) != 1:
            raise ValueError("give one of url_file, url_variable and url")
        return self

    def urls(self) -> list[str]:
        """Return the URLs. Raises OSError when the file or the variable is not there."""
        if self.url_file is not None:
            text = self.url_file.read_text(encoding="utf-8")
        elif self.url_variable is not None:
            if self.url_variable not in os.environ:
                message = f"the variable {self.url_variable} is not set"
                raise OSError(message)
            text = os.environ[self.url_variable]
        else:
            text = self.url.get_secret_value() if self.url else ""
        return [line.strip() for line in text.splitlines() if line.strip()]


class PolicyForAll(ChangePolicy):
    """What holds for every model; `max_releases_a_day` counts all of them together."""

    one_canary_per_pair: bool = False
    """A build waits before its deploy while another model has a canary on the fleet pair; a restore never does."""
    queue_s: Annotated[float, Field(gt=0)] = 3000
    """How long it waits; a task of Airflow's deploy may take an hour in all."""


class Environment(Section):
    """All that a step needs to know of the world."""

    s3: S3
    pairs: Annotated[dict[str, FleetPair], Field(min_length=1)]
    router: EnvoyRouter
    metrics: PrometheusMetrics | None = None
    perf_analyzer: PerfAnalyzer = PerfAnalyzer()
    triton_key: Annotated[SecretStr, AfterValidator(_header_and_value)] | None = None
    """`name=value` of Triton's restricted control API, if it is restricted: the header that opens it, and its value."""
    signing: Signing = Signing()
    recycler: Recycler = NoRecycler()
    """Who starts a replica anew that a failed or hung load has left unwell."""
    change_policy: PolicyForAll = PolicyForAll()
    notify: dict[str, Channel] = {}
    """The connections that messages go to, by the name that `notify` of a model config gives them."""
    lease_s: Annotated[float, Field(ge=5)] = 120
    load_timeout_s: Annotated[float, Field(gt=0)] = 300
    call_timeout_s: Annotated[float, Field(gt=0)] = 10

    def pair(self, name: str) -> FleetPair:
        """
        Return a fleet pair.

        Raises BadModelConfig when the environment has none of that name.
        """
        if name not in self.pairs:
            problem = (
                f"serving.fleet_pair {name!r} is not in the environment, which has {', '.join(sorted(self.pairs))}"
            )
            raise BadModelConfig("the model config", [problem])
        return self.pairs[name]


def load_environment(path: Path | None = None) -> Environment:
    """
    Read the environment from a file, by default the one MODEL_RELEASE_ENVIRONMENT names.

    Raises BadModelConfig, naming the file and every problem.
    """
    named = path or os.environ.get(ENVIRONMENT_VARIABLE)
    if not named:
        raise BadModelConfig("the environment", [f"give --environment FILE, or set {ENVIRONMENT_VARIABLE}"])
    try:
        text = Path(named).read_text(encoding="utf-8")
    except OSError as error:
        raise BadModelConfig(str(named), [str(error)]) from None
    return parse_section(Environment, text, str(named))
