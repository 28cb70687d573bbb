"""Damaged text made plain again, as CLIP's tokenizer has it done before it reads.

The published tokenizer hands every text to the library ftfy; weights saw what came out. This is that repair for what
stands in phrases: HTML entities, UTF-8 that was read as Windows-1252, curly quotes, ligatures, full-width letters and
control characters. Left out is the guessing of rarer encodings (Greek, Cyrillic or East Asian text read as Latin).
"""

from __future__ import annotations

import html
import re
import unicodedata

_ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")
_QUOTES = {
    ord(mark): plain
    for marks, plain in (("\u02bc\u2018\u2019\u201a\u201b", "'"), ("\u201c\u201d\u201e\u201f", '"'))
    for mark in marks
}
_LIGATURES = re.compile("[\u0132\u0133\u0149\u01c4-\u01cc\u01f1-\u01f3\ufb00-\ufb06]")
_WIDE = re.compile("[\u3000\uff01-\uffef]")
_CONTROLS = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[a-zA-Z]")


def _as_read(byte: int) -> str:
    """The character that Windows-1252 shows for a byte; Latin-1 where it has none."""
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)


_BYTES = {_as_read(byte): byte for byte in range(0x80, 0x100)}
_BYTES |= {chr(byte): byte for byte in range(0x80, 0xA0)}  # read as Latin-1
_UNSEEN = {code: _as_read(code) for code in range(0x80, 0xA0)}  # control codes that Windows-1252 shows
_FOLLOWS = "[" + re.escape("".join(shown for shown, byte in _BYTES.items() if byte < 0xC0)) + "]"
# Two bytes from U+0080 on, three from U+2000 on, four: the openings that genuine phrases do not have.
_MISREAD = re.compile(f"[\u00c2\u00c3]{_FOLLOWS}|\u00e2{_FOLLOWS}{{2}}|\u00f0{_FOLLOWS}{{3}}")


def repair(text: str) -> str:
    """`text` with the damage above undone, in Unicode's composed form (NFC); steps repeat until nothing changes."""
    may_be_html = "<" in text  # in which entities would be meant
    before = None
    while text != before:
        before, text = text, _one_pass(text if may_be_html else _ENTITY.sub(_character, text))
    return unicodedata.normalize("NFC", text)


def _one_pass(text: str) -> str:
    text = _MISREAD.sub(_decode, text)
    text = _LIGATURES.sub(_compatible, text)
    text = _WIDE.sub(_compatible, text)
    return _CONTROLS.sub("", _ESCAPES.sub("", text.translate(_QUOTES | _UNSEEN)))


def _character(found: re.Match[str]) -> str:
    told = html.unescape(found[0])
    if told != found[0]:
        return told
    lower = html.unescape(found[0].lower())  # &NTILDE; as old writers have it
    return lower.upper() if len(lower) == 1 and found[0].isupper() else found[0]


def _decode(found: re.Match[str]) -> str:
    try:
        return bytes(_BYTES.get(shown, ord(shown)) for shown in found[0]).decode("utf-8")
    except UnicodeDecodeError:
        return found[0]


def _compatible(found: re.Match[str]) -> str:
    return unicodedata.normalize("NFKC", found[0])
