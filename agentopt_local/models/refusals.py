"""Whose fault a server's error is: this prompt's, every request's, or nobody's.

Servers share neither codes nor words, so an error is judged by what most of them have in common: a status, codes, names
of fields, and words about a few topics. Where status and codes decide, words are not asked. What is not recognised is
everyone's fault and ends the run with the server's message: a run that goes on would grade every problem 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from agentopt_local.chat import Message
from agentopt_local.models.server_error import Refusal

Kind = Literal[
    "context", "content", "request", "sampled", "cut", "key", "quota", "missing", "moved", "timeout", "overloaded",
    "other",
]  # fmt: skip
"""``context``, ``content``: this prompt is too long, or refused for good. ``request``: something in the form of the
request is not supported. ``sampled``: the server rejects what the model wrote. ``cut``: the model wrote up to the limit
and nothing of it is given. ``key``, ``quota``, ``missing``,
``moved``, ``other``: no request will succeed. ``timeout``, ``overloaded``: this one may, later."""

_PASSING = re.compile(r"overload|rate.?limit|throttl|too.?many.?requests|resource.?exhausted|service.?unavailable")

_INPUT = r"(?<![a-z_])(prompt|inputs?|messages?|conversation|request|context)(?![a-z]|_(?!tokens|len))"
_UNIT = r"(tokens?|length|long|size|context|window)"
_EXCESS = (
    r"(exceed\w*|too (long|large|big|many)|(long|larg|great|bigg|high)er than|over(flow|s the limit)|beyond|"
    r"must (be|have) (<|less|fewer)|more than|at most|reduce|max(imum|imal)?\b|limit|"
    r"should be \[|outgrow\w*| > |not fit)"
)
_CONTEXT_CODE = re.compile(
    r"context.?(length|window|size)|exceed\w{0,8}.?context|context.?exceed|prompt.?too.?long|tokens?.?limit.?(reached|exceeded)"
    r"|max.?prompt.?tokens|string_above_max_length|input.?too.?long"
)
_CONTEXT = re.compile(
    r"context[ _](length|window|size|limit)|n_ctx|max_model_len|too many (input )?tokens"
    r"|max\w{0,20}tokens\W.{0,30} got -|(prompt|input)(_| is |-)too[ _-]long"
)
_CAP = re.compile(r"\bmax_\w{0,20}tokens\W{1,3}(must|should|cannot) be (less|lower|at most|<)")
"""What the limit of an output may be at most, which may be measured by the context."""
_PART = re.compile(r"messages|input|prompt|content|max_")
_LABEL = re.compile(r"(tool_call_id|id|name|description)$")
_OUTPUT = re.compile(r"(completion|output|generat\w+) tokens|max_(completion_|output_|new_)?tokens")
_PIECES = re.compile(r"(?:[^.;\n|]|\.(?=[0-9]))+")

_CONTENT = re.compile(
    r"content_filter|content[_ -]policy|content management policy|contentpolicy|invalid_prompt|policy_violation"
    r"|\b(prompt|input|content|request|output|response)\b (was|were|is|has been|have been) (flagged|blocked|filtered)"
    r"|\b(prompt|input|content)\b.{0,40} ?violat\w{1,8} .{0,40}\b(usage|content|safety) (polic|guideline)"
    r"|(blocked|flagged|rejected|filtered) (by|for|due to|because of|as a result of) .{0,40}"
    r"(content|safety|moderation|polic|filter|guardrail)"
    r"|(safety|moderation|guardrails?|content)\b.{0,20} (blocked|rejected|flagged) (the|this|your) "
    r"|content exists risk|data_?inspection_?failed|inappropriate content|moderation[ _](failed|blocked)"
    r"|sensitive (content|words?|information)|put new_sensitive|敏感|prohibited_content|responsibleai"
    r"|guardrail_intervened",
)
TEMPLATE = re.compile(
    r"\broles?\b.{0,60}(alternat|support|allow|expect|after|order|invalid|unknown|valid\b|unexpected)"
    r"|(unexpected|unknown|invalid|unsupported|expected|valid|last) role|roles? must"
    r"|alternat\w{0,8} .{0,40}\b(user|assistant|roles)"
    r"|jinja|chat.?template|template ?error|messages?\[\d+\]\.role|unknown variant `?(tool|system|developer)"
    r"|(successive|consecutive|multiple) \W?(user|assistant|tool|system)|system (message|prompt|role|instruction)"
    r"|developer (instruction|message|role)|(function|tool) (call|response) turn|message_order|interleav"
)
_KEY = re.compile(
    r"api[ _-]?key\b.{0,40}(not valid|invalid|incorrect|missing|expired|required|provided)"
    r"|(invalid|incorrect|missing|wrong|no|expired).{0,12}api[ _-]?key"
    r"|invalid_api_key|api_key_invalid|authentication_error"
)
_BROKE = re.compile(
    r"insufficient[ _](balance|credit|fund)"
    r"|(credit|balance|fund)s?\b.{0,30}(too low|exhaust|deplet|insufficient|negative)"
    r"|(no|out of|not enough|insufficient|more) credits|credit_balance|billing_(hard_limit|not_active)|payment required"
    r"|hard limit|spend(ing)?[ _]limit|access_terminated|arrear|\bkey limit exceeded|余额不足|额度不足|欠费"
    r"|budget_exceeded|exceeded.?budget|budget (has been |was |is )?exceeded"
    r"|account\b.{0,40}(suspended|deactivated|overdue|disabled)"
)
_USED_UP = re.compile(r"insufficient_quota|quota|usage.?limit|per[ -]day|daily|\((tpd|rpd)\)|billing")
_LONG = re.compile(r"insufficient_quota|per[ -]day|daily|\((tpd|rpd)\)")
_FOR_NOW = re.compile(
    r"per[ -](minute|second|hour)|\((tpm|rpm)\)|try again in|retry (in|after)|rate.?limit|throttl"
    r"|resource (has been )?exhausted"
)
_TOO_LARGE = re.compile(r"(request|prompt|input|body)( body| entity)? (is )?too large")
_SAMPLED = re.compile(r"tool_use_failed|json_validate_failed|failed_generation")
_MISSING = re.compile(r"\bmodels?\b.{0,60} (is )?not found|not_?found|not a chat model")
_CUT = re.compile(r"could not finish the (message|response|reply)")
_CAPABILITY = re.compile(
    r"(unsupported|(not|n.t) (be |currently |yet |fully )?(support|enabled|implement|available|allow|permitted)|"
    r"notimplemented|does not have|requires? --|conversion failed|unrecogni[sz]ed|"
    r"unknown (param|field|argument)|found that (support|can handle)|extra inputs|"
    r"(failed|unable) to .{0,40}\b(grammar|schema|format)\b)"
)


def kind_of(refusal: Refusal) -> Kind:
    """Whose fault a refusal is."""
    found = next((kind for kind, test in _TESTS if test(refusal)), None)
    return found or _by_status(refusal.status, refusal.said, refusal.codes)


def _has_nothing_left(refusal: Refusal) -> bool:
    """Whether the account, and not just this minute, has nothing left."""
    status, said = refusal.status, refusal.said
    if status == 402:
        return True
    if status not in (400, 403, 412, 429, 502):
        return False
    if _BROKE.search(said):
        return True
    # Some use the same words for what they give per minute, but then they say when to come back.
    used_up = status == 429 and _USED_UP.search(said) is not None
    return used_up and not refusal.wait_s and (bool(_LONG.search(said)) or not _FOR_NOW.search(said))


def _by_status(status: int, said: str, codes: str) -> Kind:
    if status in (408, 504, 524):
        return "timeout"
    if status in (409, 424, 425, 429, 498, 499) or (400 <= status < 500 and _PASSING.search(codes)):
        return "overloaded"
    unable = _CAPABILITY.search(said) or blames_template(said)
    if status == 404:
        return "request" if unable and not _MISSING.search(said) else "missing"
    if status in (405, 500, 501, 502) and unable:
        return "request"
    if status in (400, 406, 412, 415, 416, 422):
        return "request"
    return "overloaded" if status >= 500 else "other"


def blames_length(refusal: Refusal) -> bool:
    """Whether the prompt is too long for the model, alone or with what was to be generated."""
    if refusal.fields and not any(_PART.search(each) and not _LABEL.search(each) for each in refusal.fields):
        return False
    if _CONTEXT_CODE.search(refusal.codes):
        return True
    for piece in _PIECES.finditer(refusal.words.lower()):
        said = piece.group()
        if _CAP.search(said) and not _names_input(said):
            continue
        if _CONTEXT.search(said) or (refusal.status != 413 and _too_long(said)):
            return True
    return False


def _too_long(sentence: str) -> bool:
    """Whether a sentence says that an input is longer than it may be. That an output may not be is something else."""
    if re.search(_INPUT, sentence) is None or (_OUTPUT.search(sentence) and not _names_input(sentence)):
        return False
    return re.search(rf"\b{_UNIT}\b", sentence) is not None and re.search(_EXCESS, sentence) is not None


def _names_input(sentence: str) -> bool:
    return re.search(r"(?<![a-z_])(inputs?|prompt)(?![a-z])", sentence) is not None


def blames_content(said: str) -> bool:
    """Whether a content filter speaks."""
    return _CONTENT.search(said.lower()) is not None


def blames_template(said: str) -> bool:
    """Whether the chat template could not render the conversation. Then see :func:`begun`."""
    return TEMPLATE.search(said.lower()) is not None


_TESTS: tuple[tuple[Kind, Callable[[Refusal], bool]], ...] = (
    ("moved", lambda it: 300 <= it.status < 400),
    ("sampled", lambda it: it.status in (400, 422) and (it.sampled is not None or bool(_SAMPLED.search(it.codes)))),
    ("cut", lambda it: it.status == 400 and bool(_CUT.search(it.said))),
    ("content", lambda it: it.status in (400, 403, 422, 451, 500, 502) and blames_content(it.said)),
    ("quota", _has_nothing_left),
    ("key", lambda it: it.status == 401 or (it.status in (400, 403) and bool(_KEY.search(it.said)))),
    ("context", lambda it: it.status in (400, 413, 416, 422, 500, 502) and blames_length(it)),
    ("content", lambda it: it.status == 413 or (it.status == 429 and bool(_TOO_LARGE.search(it.said)))),
)


def begun(messages: Sequence[Message]) -> bool:
    """Whether the model has replied in this conversation.

    A template that refuses the opening refuses every conversation; one that refuses a later turn, whatever its form,
    refuses what became of this conversation.
    """
    return any(message.role == "assistant" for message in messages)


def named_fields(refusal: Refusal, names: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Which of ``names`` a refusal mentions, with the place where; those that it names as fields come first."""
    for name in names:
        spelled = re.compile(rf"(?<![a-z0-9_]){name.replace('_', '_?')}(?![a-z0-9_])")  # also in camel case
        found = spelled.search(refusal.words.lower())
        if any(spelled.search(each.lower()) for each in refusal.fields):
            yield -1, name
        elif found:
            yield found.start(), name
