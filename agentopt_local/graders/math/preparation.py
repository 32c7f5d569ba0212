"""The text of an answer before it is split into tokens."""

from __future__ import annotations

import re

from agentopt_local.graders.math.latex_macros import SUBSCRIPTS, SUPERSCRIPTS, UNICODE

_ABBREVIATION = re.compile(
    r"\b(sq|cu|ft|yd|mi|km|hr|hrs|min|sec|lb|lbs|oz|gal|qt|yr|yrs)\.(?=[ \t]?/|[ \t][A-Za-z])", re.IGNORECASE
)
_SCALES = {"C": "celsius", "F": "fahrenheit"}
_TEMPERATURE = re.compile(
    r"\^\s*\{?\s*\\circ\s*\}?\s*(?:\\[,; ])?(?:([CF])(?![A-Za-z])|\\(?:text|mathrm)\s*\{\s*([CF])\s*\})"
)
_UNIT_FRACTION = re.compile(
    r"\\[dt]?frac\s*\{\s*\\(?:text|mathrm|mbox)\s*\{([A-Za-z .]+)\}(\^\{?\d\}?)?\s*\}"
    r"\s*\{\s*\\(?:text|mathrm|mbox)\s*\{([A-Za-z .]+)\}(\^\{?\d\}?)?\s*\}"
)
_UNIT_PRODUCT = re.compile(r"\}\s{0,3}\\cdot\s{0,3}(?=\\(?:text|mathrm|mbox)\s{0,3}\{)")
_ROMAN_UNIT = re.compile(r"(?<=[\d ,~;])\\mathrm\s{0,3}\{[\s~]{0,3}([mgls])\}")
_SQUARE = re.compile(r"(?<=\d)\s{0,3}(sq|cu)\.?\s{0,3}(m|in|cm|km|mm)\b\.?")


def prepared(text: str) -> str:
    """``text`` with Unicode signs, abbreviations and fractions of units in the notation that tokens are made from."""
    text = re.sub("[⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda m: "^{" + "".join(SUPERSCRIPTS[c] for c in m[0]) + "}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + "".join(SUBSCRIPTS[c] for c in m[0]) + "}", text)
    text = re.sub(r"(?<=\d)(?=[½¼¾⅓⅔])", " ", text)
    text = "".join(UNICODE.get(char, char) for char in text)
    text = re.sub(r"(?<!\\)\\+\Z|^\\\[|\\\]$|^\\\(|\\\)$", "", text.strip()).strip()
    text = re.sub(r"\^\s*\{?\s*\\\w+\s*\{\s*(st|nd|rd|th)\s*\}\s*\}?", r"\1", text)
    text = re.sub(r"\b([AaPp])\.\s?([Mm])\b\.?", r"\1\2", text)
    if "." in text:
        text = re.sub(r"\b([mk])\.\s?p\.\s?h\b\.?", r"\1ph", text)
        text = _ABBREVIATION.sub(r"\1", text)
    if "circ" in text:
        text = _TEMPERATURE.sub(lambda found: f"^\\circ\\text{{ {_SCALES[found[1] or found[2]]}}}", text)
    if "cdot" in text:
        text = _UNIT_PRODUCT.sub("} ", text)
    if "mathrm" in text:
        text = _ROMAN_UNIT.sub(r"\\text{ \1}", text)
    text = _SQUARE.sub(r"\\text{ \1 \2}", text)
    if "frac" in text and "{\\" in text:
        text = _UNIT_FRACTION.sub(lambda m: rf"\text{{ {m[1]}}}{m[2] or ''}\text{{/{m[3]}}}{m[4] or ''}", text)
    text = re.sub(r"\\left\s*\.|\\right\s*\.", "", text)
    return text.rstrip(" .") if text.endswith(".") and not text.endswith("...") else text
