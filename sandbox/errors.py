"""The one error of the sandbox: a sentence for the person at the keyboard."""

from __future__ import annotations


class SandboxError(Exception):
    """What happened, where, and what to do; printed as one line."""
