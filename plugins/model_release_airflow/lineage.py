"""Lineage of a release, for OpenLineage: the checkpoint goes in, the sealed version comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.sdk import Context

from model_release_airflow.connection import environment_of_task
from model_release_airflow.steps import ReleaseStep

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage


class Publish(ReleaseStep):
    """The step that seals a version; Airflow's OpenLineage provider asks it for its lineage."""

    sealed: dict[str, Any] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Seal the version, and remember which it was."""
        result = super().execute(context)
        planned = context["ti"].xcom_pull(task_ids="plan")
        self.sealed = {**planned, "release_digest": result["release_digest"]}
        return result

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage | None:  # noqa: ARG002
        """Return the checkpoint as input and the archived version as output; None before anything is sealed."""
        from airflow.providers.openlineage.extractors import OperatorLineage
        from openlineage.client.event_v2 import InputDataset, OutputDataset
        from openlineage.client.facet_v2 import dataset_version_dataset

        if self.sealed is None:
            return None
        s3 = environment_of_task().s3
        version = str(self.sealed["version"])
        key = "/".join(part for part in (s3.prefix, "archive", self.sealed["model"], version) if part)
        facet = dataset_version_dataset.DatasetVersionDatasetFacet(
            datasetVersion=f"{version} {self.sealed['release_digest']}"
        )
        namespace, name = _dataset(self.sealed["checkpoint"])
        return OperatorLineage(
            inputs=[InputDataset(namespace=namespace, name=name)],
            outputs=[OutputDataset(namespace=f"s3://{s3.bucket}", name=key, facets={"version": facet})],
        )


def _dataset(uri: str) -> tuple[str, str]:
    """Return a file's namespace and name, as OpenLineage's naming has them: `s3://bucket` and the key, or `file`."""
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        return f"s3://{parts.netloc}", parts.path.lstrip("/")
    return "file", parts.path
