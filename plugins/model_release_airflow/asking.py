"""
Asking a person by Airflow's human-in-the-loop, while the release goes on being looked at.

The provider's operators park their task until there is an answer. Here the task is deferred to a trigger that looks:
Airflow hands an answer to a deferred task too, and the trigger ends the wait when there is nothing left to ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Context, Param
from airflow.sdk.execution_time.hitl import upsert_hitl_detail

from model_release.environment import Environment
from model_release.errors import NothingToDecide
from model_release.identity import Release
from model_release_airflow.connection import environment_of_task
from model_release_airflow.links import ReportLink
from model_release_airflow.steps import library_step

#: Not `reason`: a field of the trigger form has that name, and a task's fields hide the form's.
REASON, SECONDS = "why", "extend_seconds"
ANSWER = "chosen_options"
MOST_EXTENDED_S = 7 * 24 * 3600.0
"""How much longer than its hold a task waits that a person may extend, before Airflow calls it lost."""


class AsksPeople(HITLOperator):
    """A task that may ask a person; `answers` are what there is to choose, each with the verb of `steps.decide`."""

    answers: dict[str, str] = {}
    operator_extra_links = (ReportLink(),)

    def __init__(self, *, approvers: Sequence[str] = (), default: str, **arguments: Any) -> None:
        fields: dict[str, Any] = {REASON: Param("", type="string", title="Reason", description="Kept in the ledger")}
        if "extend" in self.answers.values():
            fields[SECONDS] = Param(
                3600, type="integer", minimum=1, title="Seconds", description="How much longer to wait, to extend"
            )
        timeout = arguments.pop("execution_timeout", None)
        arguments.pop("params", None)  # the DAG's own, which Airflow hands to each operator
        super().__init__(
            subject="",
            options=list(self.answers),
            defaults=default,
            params=fields,
            assigned_users=[{"id": name, "name": name} for name in approvers],
            **arguments,
        )
        self.execution_timeout = timeout

    @staticmethod
    def environment() -> Environment:
        """Return the environment that the library's steps are handed."""
        return environment_of_task()

    def ask_people(self, context: Context, subject: str, body: str) -> None:
        """Show the question in Airflow; an answer to an earlier one of the task is forgotten."""
        self.subject, self.body = subject, body
        upsert_hitl_detail(
            ti_id=context["ti"].id,
            options=self.options,
            subject=subject,
            body=body,
            defaults=self.defaults,
            multiple=False,
            params=self.serialized_params,
            assigned_users=self.assigned_users,
        )

    def note_answer(self, release: Release, event: dict[str, Any]) -> str | None:
        """Write a person's answer into the ledger and return its verb; None when it came too late to count."""
        [chosen] = event[ANSWER]
        given = event.get("params_input") or {}
        person = event.get("responded_by_user") or {}
        verb = self.answers[chosen]
        try:
            library_step("decide").run(
                release.model,
                environment_of_task(),
                verb,
                by=person.get("name") or person.get("id") or "somebody",
                reason=given.get(REASON) or "",
                seconds=float(given.get(SECONDS) or 0),
                run=release.holder,
            )
        except NothingToDecide as late:
            self.log.warning("the answer %s came too late: %s", chosen, late)
            return None
        self.log.info("%s answered %s: %s", person.get("name"), chosen, given.get(REASON))
        return verb
