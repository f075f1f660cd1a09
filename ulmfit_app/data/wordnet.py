"""Synonyms of English words, from the files of WordNet 3 (Fellbaum 1998).

The format is that of WordNet's manual pages: wndb(5WN) for the files, morphy(7WN) for the base
forms of words. Only `data.*` and `*.exc` are read; `index.*` finds a word's lines in them without
reading all, and here all are read, once.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from ulmfit_app.errors import SettingError

DEBIANS = Path("/usr/share/wordnet")  # of the package wordnet-base
VARIABLE = "WNSEARCHDIR"  # wnenv(5WN): another folder of the same files
# morphy(7WN): endings of inflected forms, and what stands there in the base form. Adverbs have
# none.
ENDINGS = {
    "noun": (
        *(("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh")),
        *(("men", "man"), ("ies", "y")),
    ),
    "verb": (
        *(("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", "")),
        *(("ing", "e"), ("ing", "")),
    ),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}


def find_wordnet() -> Path:
    """The folder of WordNet's files: Debian's, or the one that WNSEARCHDIR names.

    Raises:
        SettingError: a file of them is missing.
    """
    folder = Path(os.environ.get(VARIABLE, DEBIANS))
    names = [f"data.{kind}" for kind in ENDINGS] + [f"{kind}.exc" for kind in ENDINGS]
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise SettingError(
            f"WordNet, which synonyms are taken from, is not installed: {folder} has no "
            f"{missing[0]}. Debian's package wordnet-base has it: apt-get install wordnet-base "
            f"(elsewhere, {VARIABLE} names the folder). Or take the nearest words in the language "
            "model's embedding: --augment.synonyms embedding"
        )
    return folder


class WordNet:
    """Synonyms of English words.

    Args:
        folder: of WordNet's files.
    """

    def __init__(self, folder: Path) -> None:
        self._synsets = {kind: _read_synsets(folder / f"data.{kind}") for kind in ENDINGS}
        self._irregular = {kind: _read_exceptions(folder / f"{kind}.exc") for kind in ENDINGS}

    def synonyms(self, word: str) -> list[str]:
        """Words and phrases that share a meaning with a word, as EDA's authors look them up.

        Of all meanings and parts of speech; an inflected form has those of its base forms, which
        are base forms too.

        Args:
            word: in any case.

        Returns:
            Without the word and its base forms, in the order of the alphabet.
        """
        word, found, own = word.lower(), set(), {word.lower()}
        for kind, synsets in self._synsets.items():
            for base in self._bases(word, kind):
                own.add(base)
                found.update(*synsets[base])
        return sorted(each for each in found if each.lower() not in own)

    def _bases(self, word: str, kind: str) -> set[str]:
        """Itself and its base forms, those that WordNet has as a part of speech."""
        regular = (
            word.removesuffix(end) + new for end, new in ENDINGS[kind] if word.endswith(end)
        )
        forms = {word, *(self._irregular[kind].get(word) or regular)}
        return {form for form in forms if form in self._synsets[kind]}


load_wordnet = lru_cache(1)(WordNet)


def _lines(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8") as file:
            yield from (line for line in file if not line.startswith("  "))  # the licence
    except UnicodeDecodeError as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> SettingError:
    return SettingError(
        f"{path} is not a file of WordNet 3: {error}. Install it again: apt-get install "
        "--reinstall wordnet-base"
    )


def _read_synsets(path: Path) -> dict[str, list[tuple[str, ...]]]:
    """Words in lower case -> the sets of synonyms that they are in."""
    found = defaultdict(list)
    for line in _lines(path):
        try:
            # Offset, file, part of speech, the number of words in hexadecimal, and each word with
            # a number; of some adjectives, where they stand: "galore(ip)".
            fields = line.split(" ", 4)
            n_words = int(fields[3], 16)
            words = fields[4].split(" ", 2 * n_words)[: 2 * n_words : 2]
        except (IndexError, ValueError) as error:
            raise _damaged(path, error) from None
        synset = tuple(word.partition("(")[0].replace("_", " ") for word in words)
        for word in synset if n_words > 1 else ():
            found[word.lower()].append(synset)
    return dict(found)


def _read_exceptions(path: Path) -> dict[str, list[str]]:
    """Irregular forms -> their base forms."""
    return {form: bases for form, *bases in map(str.split, _lines(path))}
