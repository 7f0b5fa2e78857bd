"""Intake: from a checkpoint's URI to a module, with everything unsafe refused before anything is loaded."""

from model_release.intake.checkpoint import FetchedCheckpoint, fetch_checkpoint, open_checkpoint, require_pin

__all__ = ["FetchedCheckpoint", "fetch_checkpoint", "open_checkpoint", "require_pin"]
