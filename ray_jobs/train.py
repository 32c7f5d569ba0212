"""``python -m ray_jobs.train CONFIG`` runs ``agentopt train``, for use with ``ray job submit``."""

from __future__ import annotations

import sys

from ray_jobs.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
