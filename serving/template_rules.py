"""What a chat template accepts and how it writes a model's turns."""

from __future__ import annotations

from typing import Any, Literal, get_args

from agentopt_local.record import Record
from serving.call_form import CallForm
from serving.template_rows import Ids

Content = Literal["text", "parts"]
NoTools = Literal["null", "empty"]
CONTENTS: tuple[Content, ...] = get_args(Content)
NO_TOOLS: tuple[NoTools, ...] = get_args(NoTools)


class TemplateRules(Record):
    """What a chat template accepts."""

    content: Content = "text"
    """``parts``: content is a list of parts, as models that see images want it."""
    system: bool = True
    """Whether it renders system messages, and where they are; otherwise they open the first user message."""
    several_users: bool = True
    """Whether user messages may follow each other; otherwise they are joined."""
    no_tools: NoTools = "null"
    """What it takes where there are no tools: some read the list without asking whether there is one."""
    tools: bool = False
    """Whether it describes tools; otherwise the system message does."""
    calls: bool = False
    """Whether it renders calls and results; otherwise they are put into words."""
    arguments: Literal["object", "text"] = "object"
    """Whether a call's arguments are given as an object or as JSON text."""
    ids: Ids = "numbered"
    """The ids that calls are given."""
    user_after_result: bool = True
    """Whether a user message may follow a result; otherwise it is appended to the result."""
    several_calls: bool = True
    """Whether a turn may make several calls; otherwise each becomes a turn of its own."""
    text_beside_calls: bool = True
    """Whether a turn that calls may have text too; otherwise the text is appended to the turn's thought."""
    empty_turns: bool = True
    """Whether the model's turns may be empty, as one is that was cut off in its thought; otherwise they hold ``…``."""
    efforts: tuple[str, ...] = ()
    """The values of ``reasoning_effort`` that it accepts, from little to much."""
    form: CallForm | None = None
    """How it writes a call; None without ``calls``."""
    text_opening: str = ""
    """What it writes before the text of an answer."""
    ending: str = ""
    """What it writes after it."""


def variables_of(template: Any) -> frozenset[str]:
    """The variables that a template reads and that a caller may set, such as ``enable_thinking``."""
    from jinja2 import Environment, TemplateError, meta

    if not isinstance(template, str):
        return frozenset()
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)  # nothing is rendered
        return frozenset(meta.find_undeclared_variables(tree))
    except TemplateError:
        return frozenset(name for name in ("enable_thinking", "thinking", "reasoning_effort") if name in template)
