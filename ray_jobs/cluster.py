"""Connecting to Ray, or starting it."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from urllib.parse import urlsplit

from agentopt_local.errors import ConfigError, EngineDeadError
from ray_jobs.config import RayConfig

SILENT = "what listens there does not answer as Ray does"
ANSWER_S = 28.0
"""How long a cluster has to answer before a run gives up on it, in seconds."""


def connect(config: RayConfig) -> None:
    """Join the cluster at ``config.address``, or start one on this machine that ends with this process.

    Without an address, join the cluster in ``RAY_ADDRESS``, which ``ray job submit`` sets for its jobs.
    Raises ConfigError if the cluster cannot be reached, EngineDeadError if Ray does not start on this machine.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # the default, 15, starves an engine on a shared CPU
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    import ray

    if ray.is_initialized():
        return
    address = config.address or os.environ.get("RAY_ADDRESS") or None
    if address not in (None, "local"):
        check_answers(address)
    # Ray installs a handler that ends the process on the spot, whatever it is doing.
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=200 << 20,  # only messages pass through it; the default is a third of the memory
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # noqa: BLE001 - Ray raises many types, including bare Exception
        if address is None:
            raise EngineDeadError(
                f"Ray did not start on this machine ({error}); its logs are under /tmp/ray/session_latest/logs; "
                "see what is missing with 'agentopt doctor', or end other Ray clusters here with 'ray stop'"
            ) from None
        raise unreachable(address, str(error)) from None
    finally:
        if on_terminate is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)


def check_answers(address: str) -> None:
    """Raise ConfigError within half a minute if no Ray cluster answers at an address.

    ``ray.init`` itself tries for a quarter of an hour.
    """
    target = address if address != "auto" else os.environ.get("RAY_ADDRESS") or address
    place = urlsplit(target if "://" in target else f"//{target}")
    try:
        if place.hostname is not None and place.port is not None:
            socket.create_connection((place.hostname, place.port), timeout=ANSWER_S / 4).close()
        if place.scheme == "ray":
            check_client_port(place.netloc)
        else:
            asked = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", target]
            done = subprocess.run(asked, check=False, capture_output=True, text=True, timeout=ANSWER_S * 3 / 4)
            if done.returncode != 0:
                raise ConnectionError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    except (OSError, ValueError) as error:
        raise unreachable(address, str(error)) from None
    except subprocess.TimeoutExpired:
        raise unreachable(address, SILENT) from None


def check_client_port(place: str) -> None:
    """Raise ConnectionError if nothing speaks gRPC at the host and port in ``place``.

    Ray's client gives up by itself, but only after 30 s; also where gRPC is missing, or is to be encrypted.
    """
    if os.environ.get("RAY_USE_TLS", "0") != "0" or not importlib.util.find_spec("grpc"):
        return
    import grpc

    with grpc.insecure_channel(place) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWER_S * 3 / 4)
        except grpc.FutureTimeoutError:
            raise ConnectionError(SILENT) from None


def unreachable(address: str, reason: str) -> ConfigError:
    """The error for an address where no Ray cluster answers; says which setting or variable holds it."""
    variable = os.environ.get("RAY_ADDRESS")
    if variable and address in ("auto", variable):
        source, remedy = f"the environment variable RAY_ADDRESS = {variable!r}", "unset RAY_ADDRESS"
    else:
        source, remedy = f"ray.address = {address!r}", "leave ray.address out"
    return ConfigError(
        f"{source}: no Ray cluster answers there ({reason}); start one with 'ray start --head', or {remedy} "
        "to use this machine alone"
    )


def disconnect() -> None:
    """Disconnect from Ray, and stop it if this process started it."""
    import ray

    if ray.is_initialized():
        ray.shutdown()
