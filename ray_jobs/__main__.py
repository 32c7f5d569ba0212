"""``python -m ray_jobs`` runs the ``agentopt`` command, even if its script is not installed."""

from __future__ import annotations

import sys

from ray_jobs.cli import main

if __name__ == "__main__":
    sys.exit(main())
