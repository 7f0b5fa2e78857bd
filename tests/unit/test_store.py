"""How the store tells what S3 answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_release.errors import StoreUnavailable
from model_release.repository.store import ObjectStore
from tests.unit.fake_s3 import FakeS3


def test_an_upload_that_s3_refuses_is_an_unavailable_store(tmp_path: Path) -> None:
    """boto3 raises an error of its own from upload_file, which once came through untold."""
    (tmp_path / "file").write_bytes(b"body")
    with FakeS3("403 to PutObject").served() as s3, pytest.raises(StoreUnavailable, match="own/key: SomeError as told"):
        ObjectStore(s3).upload(tmp_path / "file", "key")
