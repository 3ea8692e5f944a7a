"""One place for what keeps Ray and Prefect from talking to the terminal and to the world."""

from __future__ import annotations

import os

QUIET = {
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLIENT_MAX_RETRIES": "1",  # a server that is away would hold up the work for a minute a request
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def quiet_environment() -> None:
    """Set each of ``QUIET`` that is not set already. Call it before ray or prefect is imported: they read it then."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
