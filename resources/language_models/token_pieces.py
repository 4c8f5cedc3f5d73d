"""How servers write single tokens: as text, as pieces of the vocabulary, or as numbers."""

from __future__ import annotations

import re

TOKEN_ID = re.compile(r"token_id:\d+")
"How vLLM writes tokens that it was told to name by their ids."
BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"One byte in vocabularies that fall back to bytes."
PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTE_OF = {chr(byte): byte for byte in PRINTABLE} | {
    chr(0x100 + place): byte for place, byte in enumerate(sorted(set(range(0x100)) - set(PRINTABLE)))
}
"Byte-level vocabularies write each byte as one character: itself where it prints, else one from U+0100 on."


def from_bytes_alphabet(piece: str) -> bytes | None:
    """The bytes of a piece of a byte-level vocabulary (`Ġthe`); None where it is none."""
    found = [BYTE_OF.get(character, -1) for character in piece]
    return None if -1 in found else bytes(found)


def from_sentencepiece(piece: str) -> bytes:
    """The bytes of a piece in which U+2581 stands for a space and <0xE6> for a byte."""
    byte = BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("\u2581", " ").encode(errors="surrogatepass")


def as_text(token: str) -> str:
    """A token as the text that it stands for, where it is written as a piece of a vocabulary."""
    if any(0x100 <= ord(character) < 0x144 for character in token) and (raw := from_bytes_alphabet(token)) is not None:
        return raw.decode(errors="replace")
    return token.replace("\u2581", " ")
