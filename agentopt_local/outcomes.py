"""What became of all drafts of one edit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from agentopt_local.actions import Terminate
from agentopt_local.drafts import Draft
from agentopt_local.evidence import cut
from agentopt_local.groups import Group
from agentopt_local.tool_calls import encodable
from agentopt_local.update import ActionCounts, EditEnd, EditOutcome, Verified

TROUBLE_CHARS = 200


def outcome_of(group: Group, drafts: Sequence[Draft], verified: Verified | None) -> EditOutcome:
    """What became of the drafts of an edit for ``group``, of which ``verified`` is the best."""
    counts = sum((draft.counts() for draft in drafts), ActionCounts())
    tried = max((draft.trials for draft in drafts if draft.trials), key=lambda each: each.matches, default=None)
    troubles = Counter(draft.trouble.partition("\n")[0] for draft in drafts if draft.trouble)
    return EditOutcome(
        kind=group.kind,
        group=group.name,
        drafts=len(drafts),
        end=end_of(drafts, verified, counts),
        matches=tried.matches if tried else 0,
        shown=len(tried.each) if tried else 0,
        counts=counts,
        trouble=encodable(cut(max(troubles, key=lambda each: troubles[each], default=""), TROUBLE_CHARS)),
    )


def end_of(drafts: Sequence[Draft], verified: Verified | None, counts: ActionCounts) -> EditEnd:
    """How the drafts of an edit ended; that its action can be applied is not known yet."""
    if verified is not None:
        return "terminated" if isinstance(verified.action, Terminate) else "applied"
    if any(draft.verified for draft in drafts):
        return "unmatched"
    if any(draft.trials for draft in drafts):
        return "failed"
    if counts.unfit:
        return "unfit"
    if not counts.legal:
        return "illegal"
    return "cut" if 2 * sum(draft.cut_sources for draft in drafts) > counts.legal else "refused"
