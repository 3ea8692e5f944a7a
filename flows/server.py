"""A Prefect server of one's own, for as long as it is needed: for a demo and for tests, on this machine alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from flows.quiet import quiet_environment
from pipeline.errors import RunError

_LOCAL = "127.0.0.1"


@contextmanager
def embedded_server(home: Path, *, seconds: float = 180.0) -> Iterator[str]:
    """Start a server on a free loopback port, make Prefect here and in child processes use it, stop it at the end.

    home  its database and all that Prefect keeps; private, so that two of them do not share one SQLite file
    Yields the address of its API. Raises RunError if it does not answer within ``seconds``.
    """
    quiet_environment()
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    url = f"http://{_LOCAL}:{port}/api"
    mine = {"PREFECT_HOME": str(home.absolute()), "PREFECT_API_URL": url}
    log = home / "server.log"
    with log.open("wb") as out, environment(mine):
        server = _start(port, out.fileno())
        try:
            _wait_for(server, url, log, seconds)
            with _prefect_uses(home, url):
                yield url
        finally:
            _stop(server)


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((_LOCAL, 0))
        return int(probe.getsockname()[1])


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set these variables, and afterwards put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start(port: int, out: int) -> subprocess.Popen[bytes]:
    """In a session of its own: Ctrl-C is for the flow, which still has its end to report."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", _LOCAL, "--port", str(port), "--no-ui"]
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env, start_new_session=True
    )


def _wait_for(server: subprocess.Popen[bytes], url: str, log: Path, seconds: float) -> None:
    """Until the server answers."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        if _answers(f"{url}/health"):
            return
        time.sleep(0.1)
    fate = f"did not answer in {seconds:.0f} s" if server.poll() is None else f"ended with exit code {server.poll()}"
    last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    raise RunError(
        f"the Prefect server {fate}: {last[0].strip()} (all of it in {log}); "
        "set PREFECT_API_URL to a server that runs, or run `python -m pipeline segment`, which needs none"
    )


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (URLError, OSError):  # it is not up yet
        return False


@contextmanager
def _prefect_uses(home: Path, url: str) -> Iterator[None]:
    """Prefect reads the environment once, when it is imported, which may be long ago."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    with temporary_settings({PREFECT_API_URL: url, PREFECT_HOME: home}):
        yield


def _stop(server: subprocess.Popen[bytes], seconds: float = 10.0) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
