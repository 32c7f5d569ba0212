r"""Which backslashes in a JSON string begin an escape, and which are the text's own.

Models often write LaTeX, Windows paths and patterns into JSON without doubling the backslash. Half of LaTeX then is an
error (``\sqrt``), and the other half another text without a word: ``\frac`` is a form feed and "rac", ``\nu`` a line
break and "u". A program's JSON may be read by JSON's rules; a model's is read by these:

* ``\\``, ``\"``, ``\/`` and ``\u`` with four hexadecimal digits are escapes, and ``\'`` is a quotation mark.
* What JSON knows no escape for (``\s``, ``\(``, ``\alpha``, ``\underline``) is a backslash and what follows it.
* ``\b`` is a backslash and "b", ``\f`` before a letter a backslash and "f": nobody sends a backspace or a form feed.
* ``\n``, ``\r`` and ``\t`` are a line break, a return and a tab, unless all letters that follow the backslash are the
  name of a command of LaTeX: ``\nabla``, ``\rho``, ``\theta``, but not ``\nprint``.
* A few of these names could also be a line break or a tab before a word (``\nu``, ``\ne``, ``\tan``). Points decide:
  after a space, an operator, an opening bracket or another command, and before what such a command takes, it is LaTeX;
  right after a word, and before an assignment, it is an escape. So are those in strings that use ``\n`` as an escape
  elsewhere, and are not those in strings with other LaTeX. ``x \ne 0``, ``a\ne b``, but ``lo = 1\nu = 2``, ``d\ne``.
* After a drive letter, in a path without spaces or with an extension, every backslash is the text's own.
* In a string that leaves backslashes undoubled, ``\\`` is a row's end of LaTeX, and stays two.
"""

from __future__ import annotations

import re

_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|[A-Za-z]+|.)", re.DOTALL)
_COMMANDS = re.compile(
    r"nLeftarrow|nLeftrightarrow|nRightarrow|nabla|natural|ncong|ne|nearrow|neg|neq|newcommand|newline|nexists|ngeq|"
    r"ngtr|ni|nleftarrow|nleq|nless|nmid|noindent|nolimits|nonumber|normalsize|not|notag|notin|nparallel|nprec|"
    r"nrightarrow|nsim|nsubseteq|nsucc|nsupseteq|nu|nwarrow|rVert|ragged|raisebox|rangle|rank|rbrace|rbrack|rceil|"
    r"real|ref|renewcommand|rfloor|rgroup|rho|right|rightarrow|rightarrowtail|rightharpoonup|rightharpoondown|"
    r"rightleftharpoons|rightrightarrows|rightsquigarrow|risingdotseq|rm|root|rtimes|rule|rvert|tableofcontents|tag|"
    r"tan|tanh|tau|tbinom|text|textbf|textcolor|textit|textnormal|textrm|textsc|textsf|textstyle|texttt|textup|"
    r"tfrac|therefore|theta|thickapprox|thicksim|thinspace|tilde|times|tiny|title|to|top|triangle|triangledown|"
    r"triangleleft|trianglelefteq|triangleq|triangleright|trianglerighteq|twoheadleftarrow|twoheadrightarrow"
)
"""Of LaTeX, those whose first letter makes an escape of JSON that has a use."""
_DOUBTFUL = {
    "nu": 0, "ne": 0, "neg": 0, "neq": 1, "ni": -2, "nmid": -1, "nless": 0, "nsim": -1, "nprec": -1, "nsucc": -1,
    "real": 1, "root": 0, "rule": 0, "rm": 1,
    "to": 0, "top": 0, "tan": 0, "tau": 2, "tag": 0, "text": 0, "tiny": 1,
}  # fmt: skip
"""Commands that are an escape and a word as well, each with the points that it starts with."""
_BEFORE = frozenset("$({[=+-*/^_<>|&,}~ \n")
_TAKES = re.compile(r" {0,2}(?:[0-9\\]|[A-Za-z](?![A-Za-z]))|[\^_]")
_ASSIGNED = re.compile(r" {0,2}(?:[-+*/%]?=(?!=)|:|,)|\.\w|_[A-Za-z]{2}")
_FACTOR = re.compile(r"(?<![A-Za-z0-9_\\])(?:[0-9]+|(?<=[^A-Za-z0-9_])[A-Za-z])\Z")
"""One letter or number before a command, as in ``h\\nu`` and ``2\\nu``."""
_CODE_POINT = re.compile(r"u[0-9a-fA-F]{4}")
_COMMAND = re.compile(r"\\([A-Za-z]+)\Z")
_PATH = re.compile(r"""(?<![A-Za-z0-9_])[A-Za-z]:(?:\\[^\\/:*?"'<>|\s]+){1,64}\\?""")
_SPACED_PATH = re.compile(r"""[A-Z]:(?:\\[^\\/:*?"'<>|\n]+){1,64}\.\w{1,5}""")


def repaired(inside: str) -> str:
    """The inside of a JSON string with each backslash doubled that begins no escape. Takes linear time."""
    for pattern in (_SPACED_PATH, _PATH):
        if pattern.fullmatch(inside):
            return inside.replace("\\", "\\\\")
    signs = _Signs(inside)

    def read(escape: re.Match[str]) -> str:
        name = escape[1]
        if name == "\\":
            return "\\\\\\\\" if signs.keeps_rows else escape[0]
        if name == "'":
            return name
        return escape[0] if name in '"/' or signs.is_escape(escape) else f"\\{escape[0]}"

    return _ESCAPE.sub(read, inside)


class _Signs:
    """What a string shows about how its author writes backslashes."""

    def __init__(self, inside: str) -> None:
        self.inside = inside
        self.plain = False
        """Whether backslashes are left undoubled."""
        self.escaped = False
        """Whether escapes of JSON are used."""
        doubled = False
        environment = False
        for escape in _ESCAPE.finditer(inside):
            name = escape[1]
            if name == "\\":
                doubled = doubled or inside[escape.end() : escape.end() + 1].isalpha()
            elif name not in "\"'/" and name not in _DOUBTFUL:
                escape_ = self.is_escape(escape)
                self.escaped = self.escaped or (escape_ and name[0] in "nt")
                self.plain = self.plain or not escape_
                environment = environment or name == "begin"
        self.escaped = self.escaped or doubled
        self.keeps_rows = self.plain and (environment or not doubled)

    def is_escape(self, escape: re.Match[str]) -> bool:
        """Whether JSON's meaning of an escape is meant."""
        name = escape[1]
        if name == "f":
            return True
        if name[0] == "u":
            return _CODE_POINT.fullmatch(name) is not None
        if name[0] not in "nrt":
            return False
        return _COMMANDS.fullmatch(name) is None or (name in _DOUBTFUL and self._points(escape) <= 0)

    def _points(self, escape: re.Match[str]) -> int:
        name, inside, start = escape[1], self.inside, escape.start()
        points = _DOUBTFUL[name] + 2 * self.plain - self.escaped
        before = inside[max(0, start - 12) : start]
        if before.endswith("\\n"):
            points -= 2
        elif before == "" or before[-1] in _BEFORE or self._follows_command(before):
            points += 2
        elif _FACTOR.search(before) and not self.escaped and not _ASSIGNED.match(inside, escape.end()):
            points += 1
        else:
            points -= 1
        if name == "text" and inside.startswith("{", escape.end()):
            points += 3
        elif _ASSIGNED.match(inside, escape.end()):
            points -= 1
        elif _TAKES.match(inside, escape.end()):
            points += 2
        return points

    def _follows_command(self, before: str) -> bool:
        last = _COMMAND.search(before)
        if last is None or last[1][0] not in "nrt":
            return last is not None
        return _COMMANDS.fullmatch(last[1]) is not None and not (self.escaped and last[1] in _DOUBTFUL)
