"""SeaweedFS as S3: who may do what, how it starts, and the buckets that the rest expects."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from sandbox.errors import SandboxError
from sandbox.home import Home, write_private
from sandbox.settings import HOST, Settings

MODELS = "models"
TRAINING = "training"
BUCKETS = (MODELS, TRAINING)
PAIR = "default"
FLEETS = ("blue", "green", "bench")


@dataclass(frozen=True)
class Keys:
    """An access key and its secret."""

    access_key_id: str
    secret_access_key: str


def pipeline_keys(home: Home) -> Keys:
    """Return the keys that may read and write both buckets."""
    return Keys(home.secret("s3_pipeline_id", 10), home.secret("s3_pipeline_secret"))


def triton_keys(home: Home) -> Keys:
    """Return the keys that may only read the models."""
    return Keys(home.secret("s3_triton_id", 10), home.secret("s3_triton_secret"))


def endpoint(settings: Settings) -> str:
    """Return the URL of S3."""
    return f"http://{HOST}:{settings.ports.s3}"


def repository_url(settings: Settings, fleet: str) -> str:
    """Return what a Triton of the fleet gets as its model repository."""
    return f"s3://{endpoint(settings)}/{MODELS}/serving/{PAIR}/{fleet}"


def write_identities(home: Home) -> None:
    """Write who may do what; no anonymous identity exists."""
    allowed = {
        "pipeline": (
            pipeline_keys(home),
            [f"{verb}:{b}" for b in BUCKETS for verb in ("Admin", "Read", "Write", "List")],
        ),
        "triton": (triton_keys(home), [f"Read:{MODELS}", f"List:{MODELS}"]),
    }
    identities = [
        {
            "name": name,
            "credentials": [{"accessKey": keys.access_key_id, "secretKey": keys.secret_access_key}],
            "actions": actions,
        }
        for name, (keys, actions) in allowed.items()
    ]
    write_private(home.s3_config, json.dumps({"identities": identities}, indent=1))


def s3_command(weed: Path, home: Home, settings: Settings) -> list[str]:
    """Return the command line; every listener is bound to 127.0.0.1 and nothing is reported home."""
    ports = settings.ports
    flags = {
        "dir": home.data,
        "ip": HOST,
        "ip.bind": HOST,
        "s3.config": home.s3_config,
        "s3.port": ports.s3,
        "s3.port.grpc": ports.s3_grpc,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "master.port": ports.s3_master,
        "master.port.grpc": ports.s3_master_grpc,
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 256,
        "volume.port": ports.s3_volume,
        "volume.port.grpc": ports.s3_volume_grpc,
        "volume.max": 50,
        "filer.port": ports.s3_filer,
        "filer.port.grpc": ports.s3_filer_grpc,
        "admin.port": ports.s3_admin,
        "admin.port.grpc": ports.s3_admin_grpc,
        "admin.ui": "false",
        "webdav": "false",
    }
    return [str(weed), "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in flags.items())]


def s3_environment() -> dict[str, str]:
    """Return what keeps the Go process small."""
    return {"GOMEMLIMIT": "384MiB", "GOGC": "50"}


def remove_sockets(settings: Settings) -> None:
    """Remove the sockets that SeaweedFS leaves in /tmp when it ends."""
    for port in settings.ports_of("s3").values():
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            path.unlink(missing_ok=True)


def client(settings: Settings, keys: Keys) -> Any:
    """Return a boto3 client that gives up soon."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint(settings),
        region_name="us-east-1",
        aws_access_key_id=keys.access_key_id,
        aws_secret_access_key=keys.secret_access_key,
        config=Config(
            connect_timeout=2, read_timeout=5, retries={"max_attempts": 1}, s3={"addressing_style": "path"}, proxies={}
        ),
    )


def is_ready(settings: Settings, home: Home) -> bool:
    """Tell whether S3 answers a signed request."""
    try:
        client(settings, pipeline_keys(home)).list_objects_v2(Bucket=MODELS, MaxKeys=1)
    except ClientError as error:
        return error.response.get("Error", {}).get("Code") == "NoSuchBucket"
    except (BotoCoreError, OSError):
        return False
    return True


def lay_out(settings: Settings, home: Home, timeout_s: float = 20) -> None:
    """
    Create the buckets, and the key that keeps each serving prefix from being empty.

    Raises SandboxError when S3 takes no write until the deadline: it is ready to read a little before that.
    """
    s3 = client(settings, pipeline_keys(home))
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            for bucket in BUCKETS:
                _create_bucket(s3, bucket)
            for fleet in FLEETS:
                s3.put_object(Bucket=MODELS, Key=f"serving/{PAIR}/{fleet}/.keep", Body=b"")
        except (BotoCoreError, ClientError, OSError) as error:
            if time.monotonic() > deadline:
                message = f"S3 at {endpoint(settings)} takes no write: {error}. See 'make logs NAME=s3'."
                raise SandboxError(message) from None
            time.sleep(0.2)
        else:
            return


def _create_bucket(s3: Any, bucket: str) -> None:
    try:
        s3.create_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") not in {"BucketAlreadyExists", "BucketAlreadyOwnedByYou"}:
            raise
