"""
Triton and perf_analyzer from their wheels: what to run, with which environment.

The server is 2.51.0 of nvidia-pytriton; it has no backends for ONNX Runtime and PyTorch, so `backends/onnxruntime` and
`backends/pytorch` are such in Python, which honour the config.pbtxt of production.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import stat
import sys
from pathlib import Path

from sandbox.errors import SandboxError
from sandbox.settings import HOST

BACKENDS = Path(__file__).with_name("backends")
_SHARED = "batched.py"
_SHARED_MEMORY_BYTES = 1 << 20
#: perf_analyzer asks for these; the server's wheel has copies under names with a hash.
_PERF_ANALYZER_LIBRARIES = ("libb64.so.0d", "libcudart.so.12")
#: Ignored signals survive exec: before 26.06 a write to an S3 connection that was dropped while idle ends the server
#: (triton-inference-server/server#8767). What a killed server left behind is removed first: the processes of its Python
#: backend live on and hold its clients' connections open, so that these hear nothing of its end.
_START_TRITON = "; ".join(  # one line, as supervisord's config wants it
    [
        "trap '' PIPE",
        'for each in /proc/[0-9]*; do { read -r name < "$each/comm"; } 2> /dev/null || continue',
        '[ "$name" = triton_python_b ] && grep -qs -- "$1" "$each/cmdline" && kill -9 "${each#/proc/}"',
        "done",
        'rm -rf "$TRITON_AWS_MOUNT_DIRECTORY"/folder* /dev/shm/"$1"*',
        "shift",
        'set -- "$@" ${CONTROL:+--http-restricted-api="$CONTROL"} ${CONTROL:+--grpc-restricted-protocol="$CONTROL"}',
        "unset CONTROL",
        'exec "$@"',
    ]
)
#: Triton downloads a model's whole folder, and fails if a version before the served one is deleted meanwhile.
_LOAD_RETRIES = 2
#: What answers to the holder of the key alone. Statistics are counts, which the metrics port tells everybody anyway.
_CONTROLLED = "model-repository,model-config,shared-memory,trace,logging"


def prepare_backends(venv: Path, folder: Path) -> Path:
    """Write the backend directory (the wheel's Python backend, and ours beside it) and return it."""
    server = _site_packages(venv) / "pytriton" / "tritonserver"
    stub = server / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    backends = folder / "backends"
    python = backends / "python"
    python.mkdir(parents=True, exist_ok=True)
    for source in [*(server / "backends" / "python").iterdir(), stub / "triton_python_backend_stub"]:
        if source.is_file():
            _copy(source, python / source.name)
    for source in BACKENDS.glob("*/model.py"):
        (backends / source.parent.name).mkdir(exist_ok=True)
        _copy(source, backends / source.parent.name / source.name)
        _copy(BACKENDS / _SHARED, backends / source.parent.name / _SHARED)
    _make_executable(python / "triton_python_backend_stub")
    _make_executable(_tritonserver(venv))
    return backends


def replica_command(
    venv: Path,
    backends: Path,
    repository_url: str,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
) -> list[str]:
    """
    Return the command of one Triton, started as in production and sized for a small machine.

    `repository_url` is s3://http://host:port/bucket/prefix; the prefix holds at least one object.
    """
    region = f"sandbox-triton-{http_port}-"
    flags = [
        f"--model-repository={repository_url}",
        "--model-control-mode=explicit",
        "--load-model=*",
        "--exit-on-error=false",
        "--strict-readiness=false",
        f"--model-load-retry-count={_LOAD_RETRIES}",
        f"--http-port={http_port}",
        f"--grpc-port={grpc_port}",
        f"--metrics-port={metrics_port}",
        f"--backend-config=python,shm-region-prefix-name={region}",
        *_flags_of_all(backends),
    ]
    return ["/bin/sh", "-c", _START_TRITON, "start-triton", region, str(_tritonserver(venv)), *flags]


def _flags_of_all(backends: Path) -> list[str]:
    """Return what each Triton of the sandbox is started with: on loopback alone, with our backends, and small."""
    return [
        f"--backend-directory={backends}",
        "--disable-auto-complete-config",
        f"--http-address={HOST}",
        f"--grpc-address={HOST}",
        f"--metrics-address={HOST}",
        "--http-thread-count=4",
        "--exit-timeout-secs=5",
        f"--backend-config=python,shm-default-byte-size={_SHARED_MEMORY_BYTES}",
        f"--backend-config=python,shm-growth-byte-size={_SHARED_MEMORY_BYTES}",
    ]


def server_script(venv: Path, folder: Path) -> Path:
    """Write a tritonserver for tools that start one by themselves, with flags of their own; returns it."""
    variables = replica_environment(venv, "none", "none", folder / "temp")
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    flags = shlex.join(_flags_of_all(prepare_backends(venv, folder)))
    script = folder.absolute() / "tritonserver"
    script.write_text(f'#!/bin/sh\n{exports}exec {shlex.quote(str(_tritonserver(venv)))} "$@" {flags}\n')
    _make_executable(script)
    return script


def replica_environment(
    venv: Path, access_key_id: str, secret_access_key: str, temp_dir: Path, *, control_key: str | None = None
) -> dict[str, str]:
    """
    Return the environment of one Triton; `temp_dir` is its own and takes the models that it downloads.

    `control_key` is `name=value`: the control API then wants it as a header, over gRPC as `triton-grpc-protocol-name`.
    The server takes it from its command line alone, so that `ps` shows it to whoever is on the machine.
    """
    temp_dir.mkdir(parents=True, exist_ok=True)
    key = {} if control_key is None else {"CONTROL": f"{_CONTROLLED}:{control_key}"}
    return {
        **key,
        "PATH": f"{venv.absolute() / 'bin'}:{os.environ.get('PATH', os.defpath)}",
        "VIRTUAL_ENV": str(venv.absolute()),
        "LD_LIBRARY_PATH": str(_libraries(venv)),
        "AWS_ACCESS_KEY_ID": access_key_id,
        "AWS_SECRET_ACCESS_KEY": secret_access_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "TRITON_AWS_MOUNT_DIRECTORY": str(temp_dir.absolute()),
        "TMPDIR": str(temp_dir.absolute()),
        "SANDBOX_FAULTS": str(faults_file(temp_dir.parent)),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SANDBOX_TORCH_PACKAGES": str(_torch_packages()),
    }


def faults_file(folder: Path) -> Path:
    """Return the file in the replicas' folder that says which versions are to suffer what; mostly there is none."""
    return folder.absolute() / "faults.json"


def perf_analyzer_command(venv: Path, folder: Path) -> list[str]:
    """Write a script that runs perf_analyzer with the libraries it needs, and return the command."""
    libraries = folder / "perf_analyzer" / "lib"
    libraries.mkdir(parents=True, exist_ok=True)
    for name in _PERF_ANALYZER_LIBRARIES:
        _link(_library(venv, name), libraries / name)
    binary = venv.absolute() / "bin" / "perf_analyzer"
    _make_executable(binary)
    script = folder.absolute() / "perf_analyzer" / "perf_analyzer"
    text = f'#!/bin/sh\nLD_LIBRARY_PATH="{libraries.absolute()}" exec "{binary}" "$@"\n'
    if not script.is_file() or script.read_text() != text:
        script.write_text(text)
    _make_executable(script)
    return [str(script)]


def _torch_packages() -> Path:
    """Return the folder of packages that this process has torch from; a second copy of it would be 750 MB."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        message = "torch is not installed. Run 'make install'."
        raise SandboxError(message)
    return Path(found.origin).parent.parent


def _site_packages(venv: Path) -> Path:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return venv.absolute() / "lib" / version / "site-packages"


def _tritonserver(venv: Path) -> Path:
    return _site_packages(venv) / "pytriton" / "tritonserver" / "bin" / "tritonserver"


def _libraries(venv: Path) -> Path:
    return _site_packages(venv) / "nvidia_pytriton.libs"


def _library(venv: Path, name: str) -> Path:
    """Return the wheel's copy of a library, whose name has a hash: libb64.so.0d is libb64-98cb6333.so.0d."""
    stem, _, version = name.partition(".so.")
    return next(_libraries(venv).glob(f"{stem}-*.so.{version}*"))


def _copy(source: Path, target: Path) -> None:
    """Copy unless it is there already: a running server keeps its files."""
    if target.is_file() and target.read_bytes() == source.read_bytes():
        return
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copy2(source, beside)
    beside.replace(target)


def _link(source: Path, target: Path) -> None:
    if target.is_symlink() and target.readlink() == source:
        return
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    beside.symlink_to(source)
    beside.replace(target)


def _make_executable(path: Path) -> None:
    mode = path.stat().st_mode
    if not mode & stat.S_IXUSR:
        path.chmod(mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
