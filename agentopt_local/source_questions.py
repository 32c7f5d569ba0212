"""How a draft asks for a source: the first one, a repair, or one from a different idea."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from agentopt_local import prompts
from agentopt_local.chat import ChatReply, Message
from agentopt_local.evidence import cut
from agentopt_local.trials import SHOWN, Trials
from agentopt_local.update import grown

DETAIL = (SHOWN, SHOWN // 3)
"""Characters of each value in a repair's feedback, in the order in which they are tried."""
SKETCH = SHOWN // 5
"""The same where not even the failed source fits into the context."""


class Failed(NamedTuple):
    """A source that failed, as the next one is asked for."""

    source: str
    why: str | Trials
    """Why it was refused, or its trials."""
    again: str = ""
    """In what it repeats an earlier one."""

    def feedback(self, shown: int = SHOWN) -> str:
        """What its author is told; about ``shown`` characters of each value."""
        return self.why.text(shown) if isinstance(self.why, Trials) else cut(self.why, 20 * shown)


def questions(
    name: str, failed: Failed | None, note: str = "", thought: str = "", opening: str = "write_source"
) -> Iterator[tuple[Message, ...]]:
    """The turns that ask for a source of ``name``, from the most detailed form to the shortest.

    ``note``: how the last reply was cut off. ``thought``: what was said in reply to :func:`reflections`. ``opening``:
    the prompt that asks for a source. A source that repeats an earlier one is left out, because small models copy what
    they see.
    """
    first = prompts.fill(opening, name=name)
    if failed is None:
        yield (user(first, note),)
        return
    for shown in DETAIL if thought else ():
        told = failed.feedback(shown)
        source = () if failed.again else (user(first), Message(role="assistant", content=failed.source))
        asked = (*source, user(told)) if source else (user(first, told),)
        again = user(prompts.fill("write_again", name=name), note)
        yield (*asked, Message(role="assistant", content=thought), again)
    if not failed.again:
        for shown in DETAIL:
            repair = prompts.fill("repair", name=name, feedback=failed.feedback(shown))
            yield (user(first), Message(role="assistant", content=failed.source), user(repair, note))
    for shown in (*(DETAIL if failed.again else ()), SKETCH):
        again_or_wrong = failed.again or "A source that did this is wrong."
        other = prompts.fill("another_idea", name=name, feedback=failed.feedback(shown), again=again_or_wrong)
        yield (user(first, other, note),)


def reflections(trials: Trials) -> Iterator[tuple[Message, ...]]:
    """What asks, without the conversation so far, how results follow from arguments; from the most detailed form on.

    A 1.5B model that had simplified polynomials which were to be expanded then expanded them in 6 of 12 repairs; in 1
    without this question, and in 1 if it came within the conversation. After Reflexion (Shinn et al., NeurIPS 2023,
    arXiv 2303.11366).
    """
    for shown in DETAIL:
        yield (user(prompts.fill("reflect", pairs=trials.pairs(shown))),)


def user(*parts: str) -> Message:
    """A user's turn of several paragraphs."""
    return Message(role="user", content="\n\n".join(part for part in parts if part))


def written(reply: ChatReply) -> int:
    """Tokens of a reply without its thought; 0 if the server does not count them."""
    return reply.usage.completion_tokens - reply.usage.thought_tokens


def longer(reply: ChatReply, limit: int, configured: int) -> int:
    """The limit of tokens after ``reply`` was cut off under ``limit``: the same if the context has ended it before."""
    return limit if 0 < written(reply) < limit else grown(limit, configured)


def cut_off(reply: ChatReply) -> str:
    """What is said of a reply that the limit of tokens has ended."""
    after = f" after {written(reply)} tokens" if written(reply) > 0 else ""
    return f"Your last reply was cut off{after}, before it was complete. Write a shorter one."
