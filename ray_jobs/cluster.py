"""Joining or starting Ray."""

from __future__ import annotations

import logging
import os
import signal
import threading

from agentopt_local.errors import ConfigError, EngineDeadError
from ray_jobs.config import RayConfig


def connect(config: RayConfig) -> None:
    """Join the cluster at ``config.address``, or start one on this machine that ends with this process.

    Without an address, the cluster that ``RAY_ADDRESS`` names is joined, as in a job that ``ray job submit`` started.
    Raises ConfigError if the cluster cannot be reached, EngineDeadError if Ray does not start on this machine.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # the default, 15, starves an engine on a shared CPU
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    import ray

    if ray.is_initialized():
        return
    address = config.address or os.environ.get("RAY_ADDRESS") or None
    # Ray's own handler would end the process in the middle of whatever it does.
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=200 << 20,  # only messages travel; the default takes a third of the memory
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # noqa: BLE001 - Ray raises many kinds, bare Exceptions among them
        if address is None:
            raise EngineDeadError(
                f"Ray did not start on this machine ({error}); its logs are under /tmp/ray/session_latest/logs; "
                "see what is short with 'agentopt doctor', or end other Ray clusters here with 'ray stop'"
            ) from None
        raise ConfigError(
            f"ray.address = {address!r}: no Ray cluster answers there ({error}); start one with "
            "'ray start --head', or leave ray.address out to use this machine alone"
        ) from None
    finally:
        if on_terminate is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)


def disconnect() -> None:
    """Leave Ray, and end it if this process started it."""
    import ray

    if ray.is_initialized():
        ray.shutdown()
