"""What LaTeX macros, plain names and Unicode characters mean, and which macros are only style."""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


UNICODE = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "π": r"\pi ",
    "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ",
    "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in ", "°": r"^\circ ", "º": r"^\circ ", "θ": r"\theta ",
    "α": r"\alpha ", "β": r"\beta ", "ℝ": r"\mathbb{R}", "≈": r"\approx ", "⟨": r"\langle ", "⟩": r"\rangle ",
    "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "“": '"', "”": '"', "’": "'", "‘": "'", "＝": "=",
    "，": ",", "（": "(", "）": ")", "∖": r"\setminus ", "√": r"\sqrt", "∆": r"\triangle ", "⁄": "/", "…": r"\ldots ",
    "¢": r"\text{ cents}",
}  # fmt: skip
SUPERSCRIPTS = {char: str(digit) for digit, char in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")} | {"⁻": "-"}
SUBSCRIPTS = {char: str(digit) for digit, char in enumerate("₀₁₂₃₄₅₆₇₈₉")}

TEXT_COMMANDS = _names(
    "text textbf textit textrm textsf texttt textnormal textup emph mbox hbox fbox mathrm mathbf mathit "
    "mathsf mathtt mathcal mathbb operatorname bm boldsymbol bold"
)
MATH_STYLES = _names("mathrm mathbf mathit mathsf mathtt mathcal mathbb operatorname bm boldsymbol bold")
DROPPED = _names(
    "left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle textstyle "
    "scriptstyle limits nolimits mathstrut quad qquad mathopen mathclose rm bf it large Large small "
    "normalsize boxed ensuremath vec hat bar underline widehat overrightarrow overset underset mathord "
    "phantom hfill middle"
)
OPS = {
    "le": "<=", "leq": "<=", "leqslant": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">",
    "ne": "!=", "neq": "!=", "cdot": "*", "times": "*", "ast": "*", "div": "/", "pm": "pm", "mp": "mp", "cup": "cup",
    "cap": "cap", "setminus": "setminus", "backslash": "setminus", "in": "in", "approx": "~=", "equiv": "==",
    "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "lfloor": "lfloor", "rfloor": "rfloor", "lceil": "lceil",
    "rceil": "rceil", "langle": "langle", "rangle": "rangle", "lbrace": "lset", "rbrace": "rset", "lbrack": "[",
    "rbrack": "]", "lparen": "(", "rparen": ")", "colon": ":", "degree": "deg", "ldots": "dots", "dots": "dots",
    "cdots": "dots", "prime": "'", "land": "and", "lor": "or", "wedge": "and", "vee": "or", "bigcup": "cup",
    "newline": "newline", "cr": "newline", "dotsc": "dots", "iff": "==", "sim": "~=",
}  # fmt: skip
COMMANDS = {
    "frac": "frac", "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "sqrt": "sqrt", "binom": "binom",
    "dbinom": "binom", "tbinom": "binom", "over": "over", "choose": "choose",
    "overline": "overline", "dot": "overline", "root": "root",
}  # fmt: skip
FUNCTIONS = _names(
    "sin cos tan sec csc cot arcsin arccos arctan arccsc arcsec arccot sinh cosh tanh log ln lg exp gcd lcm "
    "max min floor ceil abs"
)
CONSTANTS = {"infty": "inf", "infin": "inf", "emptyset": "empty", "varnothing": "empty", "pi": "pi", "R": "reals"}
PLAIN = {
    "sqrt": ("cmd", "sqrt"), "pi": ("const", "pi"), "infinity": ("const", "inf"), "inf": ("const", "inf"),
    "oo": ("const", "inf"), "asin": ("fn", "arcsin"), "acos": ("fn", "arccos"), "atan": ("fn", "arctan"),
    "theta": ("sym", "theta"), "alpha": ("sym", "alpha"), "beta": ("sym", "beta"), "gamma": ("sym", "gamma"),
    "lambda": ("sym", "lambda"), "phi": ("sym", "phi"), "union": ("op", "cup"),
}  # fmt: skip
GREEK = {"varphi": "phi", "vartheta": "theta", "varepsilon": "epsilon", "imath": "i", "ell": "ell"}
