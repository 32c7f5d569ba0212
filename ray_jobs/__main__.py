"""``python -m ray_jobs``: the ``agentopt`` command where its script is not installed."""

from __future__ import annotations

import sys

from ray_jobs.cli import main

if __name__ == "__main__":
    sys.exit(main())
