"""Any text as LaTeX that compiles with pdflatex and prints as it is read."""

import re
import unicodedata

from rank_lab.plain_text import plain

__all__ = ["latex_text"]

# Signs that Computer Modern has an outline of: \textdollar and \textasciigrave would be bitmaps in the PDF.
_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\ensuremath{\mathdollar}",
    "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedblright{}", "'": "{'}", "`": r"\`{}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # after the end of a row they would be an argument of it
}  # fmt: skip

# Accents that the fonts of every installation can set over a letter.
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip
_LETTERS = {
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}",
    "ł": r"\l{}", "Ł": r"\L{}", "å": r"\aa{}", "Å": r"\AA{}", "–": r"\textendash{}", "—": r"\textemdash{}",
    "…": r"\ldots{}",
    **{sign: f"$\\{name}$" for sign, name in (
        ("σ", "sigma"), ("φ", "varphi"), ("θ", "theta"), ("ε", "varepsilon"), ("λ", "lambda"), ("Δ", "Delta"),
        ("Σ", "Sigma"), ("‖", "Vert"), ("≤", "leq"), ("≥", "geq"), ("≈", "approx"), ("∞", "infty"), ("∈", "in"),
    )},
    "−": "$-$", "√": r"$\surd$", "²": "${}^2$", "ᵀ": "${}^{\\top}$",
    **{chr(0x2080 + n): f"${{}}_{n}$" for n in range(10)},
    "×": r"$\times$", "±": r"$\pm$", "·": r"$\cdot$", "→": r"$\rightarrow$", "\u00a0": "~",
}  # fmt: skip
_DASHES = re.compile("--+")


def latex_text(text: str, *, limit: int = 1500) -> str:
    r"""Text of anybody, escaped; what common fonts have no sign for is written by its number, as ``[U+4E2D]``.

    Parameters
    ----------
    text
        Such as the name of a run or a module; control characters are written out as by
        :func:`rank_lab.plain_text.plain`.
    limit
        Characters, of which the start and the end are kept.

    Examples
    --------
    >>> print(latex_text(r"50%_of {a} & \input{x}"))
    50\%\_of \{a\} \& \textbackslash{}input\{x\}
    >>> print(latex_text("caf\xe9 \u4e2d --r=8"))
    caf\'{e} {[}U+4E2D{]} -{}-r=8
    """
    shown = "".join(map(_character, unicodedata.normalize("NFC", plain(text, limit=limit))))
    return _DASHES.sub(lambda found: "{}".join(found.group()), shown)  # the font would join them


def _character(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if character in _LETTERS:
        return _LETTERS[character]
    if character.isascii():
        return character
    parts = unicodedata.normalize("NFD", character)
    if len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in _ACCENTS:
        letter = {"i": r"\i", "j": r"\j"}.get(parts[0], parts[0])
        return rf"\{_ACCENTS[parts[1]]}{{{letter}}}"
    return f"{{[}}U+{ord(character):04X}{{]}}"
