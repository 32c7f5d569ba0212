"""Graders by name.

A module or package in ``graders/`` that declares ``GRADERS``, a mapping from names to graders, makes them known by
these names. There is no other list.
"""

from __future__ import annotations

import importlib
import pkgutil

from agentopt_local import graders
from agentopt_local.errors import ConfigError, outcome
from agentopt_local.graders import numbers, text
from agentopt_local.grading import Grader
from agentopt_local.spelling import did_you_mean

BUILT_IN: dict[str, Grader] = {**text.GRADERS, **numbers.GRADERS}
"""The graders for any task, known without importing those of the benchmarks."""


def named_graders() -> dict[str, Grader]:
    """All graders that have a name. Imports every module in ``graders/``."""
    found = dict(BUILT_IN)
    for module in pkgutil.iter_modules(graders.__path__):
        found |= getattr(importlib.import_module(f"{graders.__name__}.{module.name}"), "GRADERS", {})
    return found


def load_grader(name: str) -> Grader:
    """The grader called ``name``: a named one (``exact``, ``numeric``, ``math``, ...) or ``module:function``.

    Raises :class:`~agentopt_local.errors.ConfigError` if there is no such grader.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    module_name, colon, attribute = name.partition(":")
    if not colon:
        known = named_graders()
        if name in known:
            return known[name]
        raise ConfigError(
            f"grader {name!r} is not known{did_you_mean(name, known)}. "
            f"Use one of: {', '.join(known)}; or 'module:function' for a function of your own"
        )
    if not module_name or not attribute:
        raise ConfigError(f"grader {name!r}: write it as 'module:function', such as 'my_graders:same_city'")
    module, error = outcome(lambda: importlib.import_module(module_name))
    if module is None:
        raise ConfigError(
            f"grader {name!r}: module {module_name!r} cannot be imported ({type(error).__name__}: {error}). "
            f"Install it, or start from the folder that contains it with PYTHONPATH=."
        ) from error
    grader = getattr(module, attribute, None)
    if grader is None:
        raise ConfigError(f"grader {name!r}: {module_name} has no {attribute!r}{did_you_mean(attribute, vars(module))}")
    if not callable(grader):
        raise ConfigError(f"grader {name!r}: {attribute!r} is a {type(grader).__name__}, not a function")
    result: Grader = grader
    return result
