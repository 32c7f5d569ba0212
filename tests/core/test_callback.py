"""The seam by which a run is followed."""

from __future__ import annotations

import inspect
from typing import Any

from agentopt_local.callback import Callback, Callbacks, ProgressOnly
from agentopt_local.stage import Stage

METHODS = [name for name in vars(Callback) if name.startswith("on_")]


class Noting(Callback):
    """Notes what it hears, under a name."""

    def __init__(self, name: str, heard: list[tuple[Any, ...]]) -> None:
        self.name = name
        self.heard = heard

    def on_step(self, row: Any) -> None:
        self.heard.append((self.name, "step", row))

    def on_progress(self, stage: Stage, done: int, total: int) -> None:
        self.heard.append((self.name, stage, done, total))


def test_every_method_does_nothing_by_default_and_is_passed_on_to_all() -> None:
    assert len(METHODS) == 6
    heard: list[Any] = []
    for name in METHODS:
        arguments = [object() for _ in inspect.signature(getattr(Callback, name)).parameters][1:]
        assert getattr(Callback(), name)(*arguments) is None
        each = [type("One", (Callback,), {name: lambda self, *given: heard.append(given)})() for _ in range(2)]
        getattr(Callbacks(each), name)(*arguments)
        assert heard[-2:] == [tuple(arguments)] * 2, name
    assert len(heard) == 2 * len(METHODS)


def test_several_are_called_in_their_order() -> None:
    heard: list[tuple[Any, ...]] = []
    both = Callbacks([Noting("a", heard), Noting("b", heard)])
    both.on_step(3)  # type: ignore[arg-type]
    assert heard == [("a", "step", 3), ("b", "step", 3)]


def test_progress_alone_is_passed_to_a_function() -> None:
    heard: list[tuple[Any, ...]] = []
    callback = ProgressOnly(lambda *given: heard.append(given))
    callback.on_progress(Stage(part="x"), 1, 2)
    callback.on_step(3)  # type: ignore[arg-type]
    assert heard == [(Stage(part="x"), 1, 2)]
