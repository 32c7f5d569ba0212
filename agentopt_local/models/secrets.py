"""The key to a server: read from the environment, checked, and masked in whatever is written or shown."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from urllib.parse import quote

from agentopt_local.errors import ConfigError

MASK = "***"
EXAMPLE = "http://localhost:8000/v1"
_PIECE = 8
"""A piece of a key this long is masked: servers and their errors quote keys in part, and texts are cut."""
_WHOLE = 16
"""A key this long is masked in what a model writes too. Shorter ones, such as "ollama", are ordinary words."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USER = re.compile(r"(?<=://)[^/@\s?#]+(?=@)")
_PARAMETER = re.compile(r"(?<=[?&])([^=&#\s]{1,80})=([^&#\s]+)")
_SECRET_NAME = re.compile(r"key|token|secret|sig|pass|pwd|auth|cred|code|session|jwt|sas|bearer", re.I)


def looks_random(text: str) -> bool:
    """Whether ``text`` is more like a key than like words: a long run of letters, and digits unless it is very long."""
    return any(
        len(run) >= 20 or (len(run) >= 12 and re.search("[0-9]", run) and re.search("[A-Za-z]", run))
        for run in re.findall("[A-Za-z0-9]+", text)
    )


def variable_fault(name: object) -> str | None:
    """Why ``name`` cannot be the name of the variable with a key, without repeating it; None if it can."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "this must be the name of an environment variable, in letters, digits and underscores, and is not"
    if looks_random(name):
        return "this must be the name of an environment variable, and looks like a key"
    return None


def address_fault(url: object) -> str | None:
    """What an address that is written down must not hold, without repeating it; None if it holds nothing secret."""
    if not isinstance(url, str) or (looks_random(url) and not re.search("[/:.]", url)):
        return f"an address is text such as {EXAMPLE}"
    secret = any(_SECRET_NAME.search(name) or len(value) > 31 for name, value in _PARAMETER.findall(url))
    if "@" in url.partition("?")[0] or secret or _USER.search(url):
        return "an address must hold no user, password or query with a secret"
    return None


def masked(text: str) -> str:
    """``text`` without users, passwords and secret parameters of addresses in it."""
    return _PARAMETER.sub(_masked_parameter, _USER.sub(MASK, text))


def _masked_parameter(found: re.Match[str]) -> str:
    name, value = found.groups()
    return f"{name}={MASK if _SECRET_NAME.search(name) or len(value) > 31 else value}"


class Key:
    """The key in an environment variable, which is read anew for every request and kept nowhere."""

    def __init__(self, variable: str, *, also: Sequence[str] = ()) -> None:
        """``also``: further secrets to mask. Raises ConfigError if ``variable`` cannot be a name."""
        if fault := variable_fault(variable):
            raise ConfigError(f"model.api_key_env: {fault}; put the key into a variable and give the variable's name")
        self.variable = variable
        self.also = tuple(also)

    @property
    def value(self) -> str:
        """The key; empty if there is none."""
        return os.environ.get(self.variable, "").strip()

    def headers(self) -> dict[str, str]:
        """The header that carries the key. Raises ConfigError if no header can."""
        key = self.value
        wrong = next((at for at, character in enumerate(key) if not "!" <= character <= "~"), None)
        if wrong is not None:
            kind = "a line break" if key[wrong] in "\r\n" else "a blank" if key[wrong] == " " else "a character"
            raise ConfigError(
                f"the key in the environment variable {self.variable} cannot be sent: it has {kind} that a key cannot "
                f"have, the {wrong + 1}. of {len(key)} characters; set the variable to the key and nothing else"
            )
        if key[:1] in "\"'" and key:
            raise ConfigError(
                f"the key in the environment variable {self.variable} is in quotation marks; set it to the key alone"
            )
        return {"Authorization": f"Bearer {key}"} if key else {}

    def redact(self, text: str) -> str:
        """``text`` of a server or an error with every secret masked, also where only a piece of it is quoted."""
        for secret in (self.value, os.environ.get(self.variable, ""), *self.also):
            for written in dict.fromkeys((secret, quote(secret, safe=""), secret.replace("/", "\\/"))):
                text = _without(text, written)
        return masked(text)

    def redact_reply(self, text: str) -> str:
        """``text``, the JSON of an answer, with the whole key masked; all else in it may be a model's own words."""
        key = self.value
        return text.replace(key, MASK).replace(key.replace("/", "\\/"), MASK) if len(key) >= _WHOLE else text


def _without(text: str, secret: str) -> str:
    if len(secret) <= _PIECE:
        return text.replace(secret, MASK) if secret else text
    pieces = {secret[at : at + _PIECE] for at in range(len(secret) - _PIECE + 1)}
    out: list[str] = []
    kept = 0  # up to where the text is in ``out``
    at = 0
    while at + _PIECE <= len(text):
        if text[at : at + _PIECE] not in pieces:
            at += 1
            continue
        end = at + _PIECE
        while text[end - _PIECE + 1 : end + 1] in pieces:
            end += 1
        out += [text[kept:at], MASK]
        kept = at = end
    return "".join([*out, text[kept:]])
