"""What all tests share: a property test is judged by what it finds, not by how busy the machine is."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

#: The same examples in every run, so that what fails is of the change; RANDOM_EXAMPLES=1 looks for what others find.
SAME = not os.environ.get("RANDOM_EXAMPLES")

settings.register_profile("patient", deadline=None, derandomize=SAME, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
