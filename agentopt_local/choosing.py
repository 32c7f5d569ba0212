"""Which of an edit's drafts is applied."""

from __future__ import annotations

from collections.abc import Sequence

from agentopt_local.actions import Action, AddFunction, ReviseFunction
from agentopt_local.drafts import Draft
from agentopt_local.update import Verified

LEAST_POOL = 3
"""Problems of which a function has to answer one: fewer may all have got wrong arguments."""
MOST = 3
"""Drafts of an edit that are tried on the pool although they did not answer all shown problems."""


def best(drafts: Sequence[Draft], min_matches: int = 0) -> Verified | None:
    """The verified edit that answers the largest share of the problems that it was tried on; of equals, the one of the
    earliest draft.

    Functions that answer fewer than ``min_matches`` of those shown are ignored, and so are those that answer no other
    problem of their kind.
    """
    useful = [each for each in verified_of(drafts) if not (min_matches and each.trials) or is_useful(each, min_matches)]
    screened = [each for each in useful if each.screened is not None]
    return max(screened or useful, key=lambda each: each.share, default=None)


def is_useful(verified: Verified, min_matches: int) -> bool:
    """Whether a function answers enough of the shown problems, and of others of their kind any."""
    return verified.matches >= min_matches and (verified.screened != 0 or verified.pool < LEAST_POOL)


def promising(drafts: Sequence[Draft], min_matches: int) -> list[Draft]:
    """The drafts to be tried on the pool where none was right: those that answered most of the shown problems."""
    least = max(1, min_matches)
    tried = [(each.verified.matches, each) for each in drafts if each.verified and each.verified.matches >= least]
    return [each for _, each in sorted(tried, key=lambda pair: -pair[0])[:MOST]]


def alternatives(drafts: Sequence[Draft], chosen: Verified | None) -> tuple[Action, ...]:
    """The functions of other drafts that are right if ``chosen`` is: one for each name and docstring."""
    if chosen is None or not chosen.right:
        return ()
    found = {as_seen(each.action): each.action for each in reversed([chosen, *verified_of(drafts)]) if each.right}
    return tuple(action for seen, action in reversed(found.items()) if seen != as_seen(chosen.action))


def as_seen(action: Action) -> str:
    """What an agent sees of the action's function."""
    if isinstance(action, AddFunction | ReviseFunction):
        return action.function.tool_spec().model_dump_json()
    return action.kind


def verified_of(drafts: Sequence[Draft]) -> list[Verified]:
    """The edits of the drafts that have one."""
    return [draft.verified for draft in drafts if draft.verified is not None]
