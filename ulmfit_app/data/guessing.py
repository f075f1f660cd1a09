"""Which encoding a file may have: advice for an error or a note, never a reading."""

import codecs
import io
import re
import shlex
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ulmfit_app.data.opening import is_compressed

# That people's files have. Where two fit a file alike, the commoner one comes first: what is left
# out, such as latin-1, reads no file that another one here does not read as well.
NAMES = (
    *("utf-8", "cp1252", "cp1251", "gb18030", "big5", "shift_jis", "cp932", "cp949", "euc-jp"),
    *("koi8-r", "cp1254", "cp1250", "iso8859-2", "cp1253", "cp1255", "cp1256", "cp866", "cp850"),
    *("mac-roman", "mac-cyrillic", "iso8859-15"),
)
# Big5 with more characters: of Windows in Taiwan, which writes ～ otherwise, and of Hong Kong. The
# first two read nearly every file alike.
BIG5 = ("big5", "cp950", "big5hkscs")
# Each of these reads most files of the others without an error, as other characters.
_EAST_ASIAN = frozenset(
    codecs.lookup(name).name
    for name in (
        *BIG5,
        "gb2312",
        "gbk",
        "gb18030",
        "shift_jis",
        "cp932",
        "cp949",
        "euc-kr",
        "euc-jp",
    )
)
SAMPLE = 1 << 16  # bytes, of lines that are not ASCII
MOST_CHAOS = 0.2  # charset-normalizer's own bound
_C1 = re.compile("[\x80-\x9f]")  # control characters that no text holds
_CHINESE = re.compile("[\u4e00-\u9fff]")
_HIRAGANA = re.compile("[\u3041-\u3096]")

Opener = Callable[[], AbstractContextManager[BinaryIO]]


@dataclass(frozen=True, order=True)
class _Candidate:
    """An encoding that reads the sample; the best one sorts first."""

    foreign: bool  # without the share of hiragana that Japanese has
    chaos: float  # 0 to 1, charset-normalizer's: unlikely characters beside each other
    incoherence: float  # -1 to 0, charset-normalizer's: letters as rare as in no known language
    order: int
    name: str
    text: str

    @property
    def excerpt(self) -> str:
        first = next(i for i, character in enumerate(self.text) if character > "\x7f")
        return "'" + " ".join(self.text[max(0, first - 15) : first + 15].split()) + "'"


def advise_encoding(open_bytes: Opener, failed: str, path: Path) -> str:
    """What a file may be encoded in, as the end of an error message.

    charset-normalizer gives the chaos and the coherence of each reading. It is asked for one
    encoding at a time: given many, it leaves out those that look like one that it has refused.

    Args:
        open_bytes: opens the file, as often as it is called.
        failed: the encoding that does not fit it, as Python names it.
        path: of the file, for a command.
    """
    with open_bytes() as file:
        sample = _sample(file)
    is_utf8 = codecs.lookup(failed).name.startswith("utf-8")
    if is_utf8 and _is_mostly_utf8(sample):
        return (
            "Nearly all else in it is UTF-8: it is damaged there, or joined from files of two "
            f"encodings. {_drop_the_rest('utf-8', path)}"
        )
    if is_utf8 and (mixed := _describe_mixture(sample)):
        return mixed
    ranked = _rank(sample, _names(open_bytes, sample), failed)
    found = [each for each in ranked if _reads_whole(open_bytes, each.name)][:3]
    if not found:
        return _advise_damaged(sample, path)
    best, others = found[0], found[1:]
    if _is_clear(best, others, sample):
        advice = f"It is probably {best.name}, which reads {best.excerpt}. Add: "
        advice += f"--encoding {best.name}"
        return advice + "".join(
            f"{', or' if number else '. Less likely are'} {each.name} ({each.excerpt})"
            for number, each in enumerate(others)
        )
    readings = "; ".join(f"--encoding {each.name} reads {each.excerpt}" for each in found)
    return f"Which one it has is not sure. Add the one that reads it right: {readings}"


def describe_misread(texts: Iterable[str], encoding: str) -> str:
    """Whether texts are plainly in another encoding of East Asia than they were read in.

    Args:
        texts: as they were read.
        encoding: in which.

    Returns:
        A sentence with the option that reads them right; "" where they are in no other one.
    """
    codec = codecs.lookup(encoding).name
    if codec not in _EAST_ASIAN:
        return ""
    sample = io.BytesIO()
    for text in texts:
        if not text.isascii():
            sample.write(f"{text}\n".encode(codec, "ignore"))
        if sample.tell() >= SAMPLE:
            break
    content = sample.getvalue()
    ranked = _rank(content, _names(lambda: io.BytesIO(content), content))
    read = content.decode(codec)
    own = [each for each in ranked if each.text == read]
    # Where the likeliest is the own one, it is not clear from itself.
    if not ranked or not _is_clear(ranked[0], own, content):
        return ""
    best = ranked[0]
    return (
        f"The texts are probably {best.name} instead of {encoding}: so they read {best.excerpt}. "
        f"To read them so: --encoding {best.name}"
    )


def _names(open_bytes: Opener, sample: bytes) -> list[str]:
    """NAMES with the one kind of Big5 that fits the file best, if any, in the place of Big5."""
    fitting = [name for name in BIG5 if _reads_whole(open_bytes, name)]
    if fitting[:2] == ["big5", "cp950"] and sample.decode("big5", "replace") != sample.decode(
        "cp950", "replace"
    ):
        fitting = ["cp950"]
    return [fitting[0] if name == "big5" and fitting else name for name in NAMES]


def _advise_damaged(sample: bytes, path: Path) -> str:
    """What to do with a file that no encoding reads whole."""
    for name in ("cp950", "gb18030"):
        text = sample.decode(name, "replace")
        read = "".join(character for character in text if character not in "\ufffd\n")
        n_bad = text.count("\ufffd")
        if sum(character > "\x7f" for character in read) > 30 * n_bad and any(
            each.name in (*BIG5, name) for each in _rank(read.encode(name), [name])
        ):
            return (
                f"Nearly all of it is {name}: it is damaged there, or has characters that someone "
                f"added for their own use. {_drop_the_rest(name, path)}"
            )
    return "None of the common encodings reads all of it: it is damaged, or holds no text."


def _drop_the_rest(name: str, path: Path) -> str:
    old = path.with_suffix("") if is_compressed(path) else path
    new = old.with_name(f"{old.stem}-mended{old.suffix}")
    return (
        f"Save it again where it comes from; or {'unpack it and ' if old != path else ''}drop "
        f"what cannot be read: iconv -c -f {name} -t utf-8 {shlex.quote(str(old))} > "
        f"{shlex.quote(str(new))}"
    )


def _sample(file: BinaryIO) -> bytes:
    # Of a line longer than a piece, the piece before belongs to the sample too where a character
    # begins in it.
    pieces, size = [], 0
    while size < SAMPLE and (piece := file.readline(SAMPLE)):
        if not piece.isascii():
            pieces.append(piece)
            size += len(piece)
    return b"".join(pieces)


def _is_mostly_utf8(sample: bytes) -> bool:
    text = sample.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    return sum(character > "\x7f" for character in text) - bad > 10 * bad


def _describe_mixture(sample: bytes) -> str:
    """What to do where many lines are UTF-8 and others are not; nothing where it is no mixture.

    A line of another encoding is UTF-8 by chance only where it has one or two characters that are
    not ASCII, and then rarely.
    """
    lines = sample.splitlines()
    n_utf8 = sum("\ufffd" not in line.decode("utf-8", "replace") for line in lines)
    if n_utf8 < 3 or n_utf8 < len(lines) / 5:
        return ""
    return (
        f"It mixes encodings: of its first {len(lines):,} lines that are not ASCII {n_utf8:,} are "
        f"UTF-8 and {len(lines) - n_utf8:,} are not, so that no --encoding reads all of it right. "
        "Save its parts as UTF-8 where they come from, and join them again."
    )


def _rank(sample: bytes, names: Iterable[str], failed: str = "") -> list[_Candidate]:
    """The encodings that read a sample, those that read it alike but once, the likeliest first."""
    from charset_normalizer import from_bytes

    candidates, texts = [], set()
    for order, name in enumerate(names):
        try:
            decoder = codecs.getincrementaldecoder(name)()
            # A longer sample may end inside of a character.
            text = decoder.decode(sample, final=len(sample) < SAMPLE)
        except UnicodeDecodeError:
            continue
        if (
            text.isascii()
            or text in texts
            or _C1.search(text)
            or (failed and codecs.lookup(name) == codecs.lookup(failed))
        ):
            continue
        texts.add(text)
        scores = (False, 0.0, -1.0)  # no text of another encoding is UTF-8 by chance
        if name != "utf-8":
            best = from_bytes(
                text.encode(name), cp_isolation=[name], threshold=MOST_CHAOS, enable_fallback=False
            ).best()
            if best is None and not (name == "gb18030" and _is_common_chinese(text)):
                continue
            n_others = sum(character > "\x7f" for character in text)
            foreign = len(_HIRAGANA.findall(text)) < 0.2 * n_others
            chaos, coherence = (best.chaos, best.coherence) if best else (MOST_CHAOS, 0.0)
            scores = (foreign, round(chaos, 2), -round(coherence, 1))
        candidates.append(_Candidate(*scores, order, name, text))
    return sorted(candidates)


def _is_common_chinese(text: str) -> bool:
    """Whether nearly all of a text's Chinese characters are among the 3,755 commonest.

    charset-normalizer takes short files of repeated lines for chaos. What was no Chinese reads as
    rare characters.
    """
    characters = _CHINESE.findall(text)
    firsts = ("".join(characters)).encode("gb2312", "ignore")[::2]
    return len(characters) >= 10 and sum(byte < 0xD8 for byte in firsts) > 0.9 * len(characters)


def _is_clear(best: _Candidate, others: list[_Candidate], sample: bytes) -> bool:
    if best.name == "utf-8":
        return True
    # On less charset-normalizer is often wrong.
    if len(sample) < 200 and sum(byte > 0x7F for byte in sample) < 30:
        return False
    return all(
        (best.foreign, best.chaos + 0.04) < (other.foreign, other.chaos)
        or best.incoherence + 0.15 < other.incoherence
        for other in others
    )


def _reads_whole(open_bytes: Opener, name: str) -> bool:
    decoder = codecs.getincrementaldecoder(name)()
    with open_bytes() as file:
        try:
            while block := file.read(1 << 20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True
