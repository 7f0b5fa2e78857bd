"""
`make show-publish`: sealing a version of 1 GB against `aws s3 cp` of the same files, in turn, in one run.

Sealing is all that publish does to files: both sums of each, the upload in parts with a CRC64NVME of the whole object,
the comparison with what S3 keeps, and the manifest. Then a deploy's copies, and how many bytes passed this machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
import uuid
import venv
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from botocore.httpsession import URLLib3Session

from model_release.environment import S3, load_environment
from model_release.repository.archive import Archive
from model_release.repository.manifest import Manifest, SourceEntry
from model_release.repository.serving import MODEL_DATA, MODEL_FILE, ServingPrefix
from model_release.repository.store import ObjectStore
from sandbox.home import find_home

AWSCLI = "awscli==1.46.*"
MODEL = "show_publish"
MIB = 2**20
SIZES_BYTES = {MODEL_DATA: 1024 * MIB, MODEL_FILE: MIB, "config.pbtxt": 2000, "parity.json": 20_000, "warmup/x": 4000}


def main() -> int:
    """Print the median seconds of both, their ratio, and the bytes of a deploy."""
    parser = argparse.ArgumentParser(prog="make show-publish", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds: int = parser.parse_args().rounds
    s3 = load_environment(find_home().environment_file).s3
    s3 = s3.model_copy(update={"prefix": f"show-publish/{uuid.uuid4().hex}"})
    store = ObjectStore(s3)
    with TemporaryDirectory() as name:
        aws, folder = _aws(Path(name)), Path(name) / "files"
        _write(folder)
        sealed_s, copied_s = [], []
        try:
            for number in range(rounds):
                sealed_s.append(_timed(lambda number=number: _seal(store, folder, number + 1)))
                copied_s.append(_timed(lambda number=number: _copy(aws, s3, folder, number + 1)))
            print(f"sealed           {_shown(sealed_s)}")
            print(f"aws s3 cp        {_shown(copied_s)}")
            print(f"ratio of medians {statistics.median(sealed_s) / statistics.median(copied_s):.2f}")
            _deploy(store)
        finally:
            for entry in store.objects(""):
                store.delete(entry.key)
    return 0


def _timed(work: Any) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _shown(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):6.1f} s   ({', '.join(f'{each:.1f}' for each in seconds)})"


def _write(folder: Path) -> None:
    for name, size_bytes in SIZES_BYTES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("wb") as file:
            for start in range(0, size_bytes, MIB):
                file.write(os.urandom(min(MIB, size_bytes - start)))


def _aws(folder: Path) -> Path:
    """Return an `aws` of its own: its pins are not ours."""
    venv.create(folder / "venv", with_pip=True)
    pip = folder / "venv" / "bin" / "pip"
    subprocess.run([str(pip), "install", "--quiet", f"{AWSCLI.replace('awscli', 'awscli[crt]')}"], check=True)
    return folder / "venv" / "bin" / "aws"


def _seal(store: ObjectStore, folder: Path, version: int) -> None:
    archive = Archive(store, MODEL)
    files = {name: archive.write(version, "base", name, folder / name, lambda: None) for name in SIZES_BYTES}
    manifest = Manifest(
        model=MODEL,
        version=version,
        part="base",
        contract=1,
        source=SourceEntry(uri="s3://training/show", sha256="0" * 64),
        files=files,
        tools={},
        summary={},
        spec_digest="0" * 64,
        release_digest="0" * 64,
        run_id="show-publish",
        sealed_at=datetime.now(UTC),
    )
    archive.seal(manifest, lambda: None)


def _copy(aws: Path, s3: S3, folder: Path, number: int) -> None:
    keys = {
        "AWS_ACCESS_KEY_ID": s3.access_key_id or "",
        "AWS_SECRET_ACCESS_KEY": s3.secret_access_key.get_secret_value() if s3.secret_access_key else "",
        "AWS_DEFAULT_REGION": s3.region,
    }
    target = f"s3://{s3.bucket}/{s3.prefix}/copied/{number}/"
    command = [str(aws), "s3", "cp", "--recursive", "--only-show-errors", "--checksum-algorithm", "CRC64NVME"]
    endpoint = ["--endpoint-url", s3.endpoint_url] if s3.endpoint_url else []
    subprocess.run([*command, *endpoint, str(folder), target], check=True, env={**os.environ, **keys})


def _deploy(store: ObjectStore) -> None:
    """Place the sealed version in a serving prefix, and count what passed between S3 and this process."""
    passed = {"requests": 0, "bytes": 0}
    send = URLLib3Session.send

    def counted(self: Any, request: Any) -> Any:
        answer = send(self, request)
        passed["requests"] += 1
        passed["bytes"] += int(request.headers.get("Content-Length") or 0)
        passed["bytes"] += 0 if request.method == "HEAD" else int(answer.headers.get("Content-Length") or 0)
        return answer

    URLLib3Session.send = counted  # type: ignore[method-assign]
    try:
        archive = Archive(store, MODEL)
        prefix = ServingPrefix(store, "default", "blue", MODEL)
        seconds = _timed(lambda: prefix.place(archive, archive.require(1), lambda: None))
    finally:
        URLLib3Session.send = send  # type: ignore[method-assign]
    total = sum(SIZES_BYTES.values())
    print(
        f"deploy           {seconds:6.1f} s   {passed['requests']} requests, {passed['bytes']} bytes through this "
        f"machine for {total} bytes placed"
    )


if __name__ == "__main__":
    sys.exit(main())
