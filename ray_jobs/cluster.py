"""Connecting to Ray, or starting it."""

from __future__ import annotations

import logging
import os
import signal
import threading

from agentopt_local.errors import ConfigError, EngineDeadError
from ray_jobs.config import RayConfig


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
        raise ConfigError(
            f"ray.address = {address!r}: no Ray cluster answers there ({error}); start one with "
            "'ray start --head', or leave ray.address out to use this machine alone"
        ) from None
    finally:
        if on_terminate is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)


def disconnect() -> None:
    """Disconnect from Ray, and stop it if this process started it."""
    import ray

    if ray.is_initialized():
        ray.shutdown()
