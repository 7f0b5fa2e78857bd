"""
A folder of DAG files and model configs as a bundle with versions: a run ends by the graph that it began with.

Airflow's bundle of a plain folder has none, and takes the newest graph for runs that are under way: an edit of
`canary.stages` would change what a running release has still to do. Here each state of the folder is kept as a copy
under its digest, which is the version that Airflow notes on a run. Copies lie in Airflow's folder for bundles
(`[dag_processor] dag_bundle_storage_path`), which every process has to see, and Airflow removes those that no run has
used for hours. Over several machines without a common folder use the GitDagBundle instead.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from airflow.dag_processing.bundles.base import BaseDagBundle, BundleVersion
from airflow.sdk.exceptions import AirflowException

DAGS, CONFIGS = Path("dags"), Path("include") / "model_configs"
_CURRENT = "current"


class VersionGone(AirflowException):
    """A run asks for a state of the project of which this machine has no copy."""

    def __init__(self, version: str, where: Path) -> None:
        super().__init__(
            f"the project's version {version[:12]} is not in {where}: it was taken on another machine, or removed "
            "after hours without use. Clear the run with the latest version, or keep dag_bundle_storage_path on a "
            "common volume."
        )


class ProjectBundle(BaseDagBundle):
    """The folders `dags` and `include/model_configs` of a project; `configs` may take the latter's place."""

    supports_versioning = True

    def __init__(self, *, project: str, configs: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._sources = {DAGS: Path(project) / DAGS, CONFIGS: Path(configs) if configs else Path(project) / CONFIGS}

    @property
    def path(self) -> Path:
        """Return the folder of the DAG files; without a version that of the newest copy, whichever it is."""
        return (self.versions_dir / self.version if self.version else self.base_dir / _CURRENT) / DAGS

    def initialize(self) -> None:
        """Take a copy; of a version that a run asks for there has to be one. Raises VersionGone."""
        if self.version is None:
            self.refresh()
        elif not self.path.is_dir():
            raise VersionGone(self.version, self.versions_dir)
        super().initialize()

    def get_current_version(self) -> BundleVersion | None:
        """Return the digest of what was copied last, or of the version that a run asks for."""
        if self.version:
            return BundleVersion(self.version)
        current = self.base_dir / _CURRENT
        return BundleVersion(current.resolve().name) if current.is_dir() else None

    def refresh(self) -> None:
        """Copy the folders, unless there is a copy of just this state; a copy is there whole or not at all."""
        with self.lock():  # over the reading too: who has read older files would point to them last
            files = self._read()
            digest = hashlib.sha256()
            for name, body in sorted(files.items()):
                digest.update(f"{name} {hashlib.sha256(body).hexdigest()}\n".encode())
            copy = self.versions_dir / digest.hexdigest()
            self.versions_dir.mkdir(parents=True, exist_ok=True)
            if not copy.is_dir():
                _write(files, copy)
            _point(self.base_dir / _CURRENT, copy)

    def _read(self) -> dict[str, bytes]:
        return {
            str(folder / name): (source / name).read_bytes()
            for folder, source in self._sources.items()
            for name in (path.relative_to(source) for path in source.rglob("*") if path.is_file())
            if not any(part.startswith((".", "__pycache__")) for part in name.parts)
        }


def _write(files: dict[str, bytes], copy: Path) -> None:
    with tempfile.TemporaryDirectory(dir=copy.parent.parent) as name:
        whole = Path(name) / "copy"
        for file, body in files.items():
            (whole / file).parent.mkdir(parents=True, exist_ok=True)
            (whole / file).write_bytes(body)
        whole.rename(copy)


def _point(link: Path, target: Path) -> None:
    """Let a symbolic link point to a folder, at one instant."""
    new = link.with_name(f"{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target, target_is_directory=True)
    new.replace(link)
