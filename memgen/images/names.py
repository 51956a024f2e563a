r"""Names of images: where each comes from, as one string that can be stored, printed, and read back.

    faces/001.png       a file, by its path under the folder or in the archive that was read
    stack.tif#3         the third frame (page) of a file that has several
    faces.npz[17]       image 17 of an array, or row 17 of a Parquet file, counted from 0

File systems allow any bytes in a name, Parquet stores only Unicode, and a terminal obeys some characters instead of
showing them. So a backslash is written \\, a byte that is no UTF-8 \xNN, and each character that controls the terminal
or the direction of text \n, \r, \t, \uNNNN or \UNNNNNNNN. `original` undoes this.
"""

import re
import unicodedata

_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_LONG = {written[1]: character for character, written in _SHORT.items()}
_ESCAPED = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|([\\nrt]))")
# Controls, marks of direction and other invisible ones, halves of surrogate pairs, separators of lines and paragraphs.
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def escaped(name: str) -> str:
    """The name with each character replaced that cannot be stored or would not be shown as itself."""
    shown = "".join(map(_written, name))
    # A file may be called a#3 or a[3], as if it were a frame or a position in an array.
    return re.sub(r"\[(?=\d+\]$)", r"\\u005b", re.sub(r"#(?=\d+$)", r"\\u0023", shown))


def original(name: str) -> str:
    """The name that `escaped` was given."""
    return _ESCAPED.sub(_read, name)


def frame(name: str, number: int, count: int) -> str:
    """The name of a frame of a file.

    Args:
        name: of the file, escaped.
        number: of the frame, from 1.
        count: number of frames; a single frame goes by the name of the file.
    """
    return f"{name}#{number}" if count > 1 else name


def _written(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if unicodedata.category(character) not in _UNSEEN:
        return character
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _read(found: re.Match[str]) -> str:
    byte, short, long, letter = found.groups()
    if byte:
        return chr(0xDC00 + int(byte, 16))
    return _LONG[letter] if letter else chr(int(short or long, 16))
