"""One self-contained HTML file: style, script and data are inside, and nothing is loaded from elsewhere.

Text from models and problems is data. It is kept in JSON blocks without ``<``, ``>`` or ``&``, the script adds it
to the page only as text, and the Content-Security-Policy allows no style or script but the ones below.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from agentopt_local.plain_text import printable, printable_json
from agentopt_local.reporting.data import RunPage
from agentopt_local.version import __version__

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = (
    "page.js", "charts.js", "results.js", "baselines.js", "functions.js", "credit.js", "steps.js", "rollouts.js",
    "main.js",
)  # fmt: skip
"""In the order in which they are joined; each uses only earlier ones."""
POLICY = (
    "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; img-src data:; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
)


def report_html(pages: Sequence[RunPage]) -> str:
    """The report of one run, or of several side by side."""
    script = "\n".join(["'use strict';", "(() => {", *map(asset, SCRIPTS), "})();", ""])
    style = asset("report.css")
    names = [page.summary["name"] for page in pages]
    chunks = [
        f'<script type="text/plain" id="chunk-{run}-{number}">{packed(chunk)}</script>'
        for run, page in enumerate(pages)
        for number, chunk in enumerate(page.chunks)
    ]
    return Template(asset("report.html")).substitute(
        policy=POLICY.format(script=digest(script), style=digest(style)),
        title=html.escape(printable(" · ".join(names))),
        style=style,
        script=script,
        data=embedded({"version": __version__, "runs": [page.summary for page in pages]}),
        chunks="\n".join(chunks),
    )


def asset(name: str) -> str:
    """A file of this package's assets."""
    return (ASSETS / name).read_text(encoding="utf-8")


def embedded(value: Any) -> str:
    """``value`` as ASCII JSON in which no markup can begin or end."""
    text = printable_json(value)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def packed(value: Any) -> str:
    """``value`` as compressed JSON in base64; the same value always gives the same text."""
    text = printable_json(value)
    return base64.b64encode(gzip.compress(text.encode("ascii"), compresslevel=6, mtime=0)).decode("ascii")


def digest(text: str) -> str:
    """SHA-256 in base64, the form in which a Content-Security-Policy names an inline block."""
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
