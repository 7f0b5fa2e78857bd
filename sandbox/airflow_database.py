"""
Migrate Airflow's database and load the connections, pools and variables of an Astro airflow_settings.yaml.

Run as a process of its own, `python -m sandbox.airflow_database FILE`, with Airflow's environment set: one start of
Airflow costs seconds, and its command line would need three.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml


def migrate() -> None:
    """Create the database, or bring it to the installed Airflow's schema."""
    from airflow.utils import db

    db.initdb()


def load(path: Path) -> None:
    """Create or replace what the file names; blank entries are skipped, as Astro does."""
    from airflow.models import Pool
    from airflow.models.connection import Connection  # the ORM's class: the SDK's has no session
    from airflow.models.variable import Variable
    from airflow.utils.session import create_session
    from sqlalchemy import select

    content = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("airflow") or {}
    with create_session() as session:
        for entry in _named(content.get("connections"), "conn_id"):
            for old in session.scalars(select(Connection).where(Connection.conn_id == entry["conn_id"])):
                session.delete(old)
            session.flush()
            session.add(Connection(**connection_arguments(entry)))
        for entry in _named(content.get("pools"), "pool_name"):
            if entry.get("pool_slot"):
                Pool.create_or_update_pool(
                    name=entry["pool_name"],
                    slots=int(entry["pool_slot"]),
                    description=entry.get("pool_description") or "",
                    include_deferred=False,
                    session=session,
                )
        for entry in _named(content.get("variables"), "variable_name"):
            Variable.set(entry["variable_name"], str(entry.get("variable_value") or ""), session=session)


def connection_arguments(entry: dict[str, Any]) -> dict[str, Any]:
    """Return Airflow's arguments of one connection; the URI counts only where no other field is set."""
    fields = {
        name: entry[f"conn_{name}"]
        for name in ("type", "host", "schema", "login", "password", "port", "extra")
        if entry.get(f"conn_{name}")
    }
    if not fields and entry.get("conn_uri"):
        return {"conn_id": entry["conn_id"], "uri": entry["conn_uri"]}
    extra = fields.pop("extra", None)
    text = extra if isinstance(extra, str) or extra is None else json.dumps(extra)
    conn_type = fields.pop("type", "generic")
    return {"conn_id": entry["conn_id"], "conn_type": conn_type, "extra": text, **fields}


def _named(entries: Any, key: str) -> list[dict[str, Any]]:
    return [entry for entry in entries or [] if entry.get(key)]


if __name__ == "__main__":
    migrate()
    if Path(sys.argv[1]).exists():
        load(Path(sys.argv[1]))
