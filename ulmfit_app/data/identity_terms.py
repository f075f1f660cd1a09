"""Words for people of different kinds, and texts with one group's in the place of another's.

A kind, such as religion, has groups, and each group has its terms in one order, so that the fifth
term of one stands for the fifth of another: singular for singular, noun for noun. A term may end
in ` *`, for a word for people that follows and stays ("black *" in "a black woman"), or in ` _`,
for any word that goes on with what is meant ("her _" in "her new car", which becomes "his").

Swapped words as in Garg et al. 2019 ("Counterfactual Fairness in Text Classification through
Robustness", section 4), all of a text at a time. A swap does not keep the meaning of every text: a
film may be about women. So its answers are compared with each other, not with a truth.
"""

import json
import re
import shlex
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path

from ulmfit_app.data.reading import read_table
from ulmfit_app.errors import DataError, SettingError, quoted
from ulmfit_app.languages import is_chinese
from ulmfit_app.text.chinese import converter

TERMS = Path(__file__).with_name("identity_terms.json")
COLUMNS = ("kind", "group", "term")
TRADITIONAL, TO_SIMPLIFIED = "zh-tw", "t2s"
PEOPLE = (
    "people|persons?|m[ae]n|wom[ae]n|boys?|girls?|guys?|kids?|child(?:ren)?|lad(?:y|ies)|"
    "gentlem[ae]n|couples?|famil(?:y|ies)|communit(?:y|ies)|folks?|friends?|act(?:or|ress(?:e)?)s?|"
    "characters?|neighbou?rs?|colleagues?|students?|teachers?|players?|workers?|parents?|"
    "mothers?|fathers?|sons?|daughters?|teen(?:ager)?s?|youths?|males?|females?|population"
)
# Words that cannot go on with what a possessive or an adjective begins.
_ENDS = (
    "a|an|the|and|or|but|nor|so|if|as|than|that|which|who|whom|when|while|where|because|until|"
    "though|although|is|are|was|were|am|be|been|being|has|have|had|do|does|did|can|could|will|"
    "would|shall|should|may|might|must|not|to|of|in|on|at|by|for|from|with|without|into|onto|"
    "over|under|about|after|before|between|through|against|up|down|out|off|away|back|i|you|he|"
    "she|it|we|they|me|him|her|us|them|my|your|his|our|their|its|this|these|those|there|here|then|now|too|also|again|"
    "always|never|just|alone|everything|anything|something"
)
PRONOUNS = {"he", "she", "his", "her", "him", "hers", "himself", "herself"}
_NO_SPACES = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
_sentence_start = re.compile(r"(?:^|[.!?:;…\n>。！？])[\s\"'“‘(\[*]*$")
_capital_follows = re.compile(r"\s+[A-Z][a-z]")
_article = re.compile(r"\b([Aa])[Nn]?(\s+)$")
_vowel = re.compile(r"(?!eu|uk|us|uni|one\b)[aeiou]|hono|heir|hour", re.IGNORECASE)


@dataclass(frozen=True)
class Mention:
    """A term in a text: its characters, its group, and its place among the group's terms."""

    start: int
    stop: int
    group: str
    place: int


@dataclass(frozen=True)
class Kind:
    """Groups that may stand in each other's places.

    Attributes:
        name: of the kind.
        terms: of each group, in one order; "" where a group has no such term.
        kept: phrases in which terms are none, in lower case.
    """

    name: str
    terms: dict[str, tuple[str, ...]]
    kept: tuple[str, ...] = field(default=())

    @cached_property
    def _search(self) -> tuple[re.Pattern[str], list[tuple[str, int]]]:
        """What finds all terms, and the group and place of each of its alternatives."""
        known: dict[str, tuple[str, int]] = {}
        for group, terms in self.terms.items():
            for place, term in enumerate(terms):
                if term:
                    known.setdefault(term, (group, place))
        order = sorted(known, key=lambda term: (-len(_core(term)), not _wildcard(term)))
        spaced, unspaced = (
            [term for term in order if bool(_NO_SPACES.search(term)) == is_unspaced]
            for is_unspaced in (False, True)
        )
        kept = [re.escape(phrase) for phrase in self.kept]
        words = "|".join([*(rf"{phrase}\b" for phrase in kept), *map(_pattern_of, spaced)])
        signs = "|".join([*kept, *map(_pattern_of, unspaced)])
        # Each alternative for itself would ask at every letter whether a word begins there.
        pattern = rf"(?<!\w)(?:{words})" + (f"|{signs}" if unspaced else "")
        return re.compile(pattern, re.IGNORECASE), [known[term] for term in spaced + unspaced]

    def find(self, text: str) -> list[Mention]:
        """Terms in a text, in order; not those that are part of a name, as far as capitals tell.

        >>> kind = Kind("gender", {"women": ("woman",), "men": ("man",)})
        >>> [mention.group for mention in kind.find("A woman saw Iron Man.")]
        ['women']
        """
        search, places = self._search
        found = []
        for match in search.finditer(text):
            if match.lastindex:
                group, place = places[match.lastindex - 1]
                if not _is_in_name(text, *match.span(), _core(self.terms[group][place])):
                    found.append(Mention(*match.span(), group, place))
        return found

    def swap(self, text: str, mentions: list[Mention], one: str, other: str) -> str:
        """The text with two groups' terms exchanged.

        Args:
            text: as it was typed.
            mentions: as `find` gives them.
            one, other: the groups; other ones' terms stay.

        Returns:
            The text; as it was where neither is mentioned.
        """
        pieces, done = [], 0
        for mention in mentions:
            if mention.group not in (one, other):
                continue
            new = _core(self.terms[other if mention.group == one else one][mention.place])
            old = _core(self.terms[mention.group][mention.place])
            if not new:
                continue
            typed = text[mention.start : mention.stop]
            begins = bool(_sentence_start.search(text[: mention.start]))
            before = text[done : mention.start]
            if bool(_vowel.match(new)) != bool(_vowel.match(old)):
                before = _fit_article(before, new, typed)
            pieces += [before, _spell(new, typed, old, begins)]
            done = mention.stop
        return "".join([*pieces, text[done:]])

    def pairs(self) -> list[tuple[str, str]]:
        """Every two groups, once."""
        return list(combinations(self.terms, 2))


def _core(term: str) -> str:
    return term[:-2] if _wildcard(term) else term


def _wildcard(term: str) -> str:
    return term[-1] if term.endswith((" *", " _")) else ""


def _pattern_of(term: str) -> str:
    """A group that matches a term to its end, whatever stands before it."""
    core = re.escape(_core(term))
    if _NO_SPACES.search(term):
        return f"({core})"
    follows = {"*": rf"\s+(?:{PEOPLE})\b", "_": rf"\s+(?!(?:{_ENDS})\b)\w"}
    behind = follows.get(_wildcard(term), "")
    return rf"({core})(?!\w)" + (f"(?={behind})" if behind else "")


def _is_in_name(text: str, start: int, stop: int, listed: str) -> bool:
    """Whether a term is capitalised as part of a name or title, such as Iron Man."""
    typed = text[start:stop]
    in_capitals = len(typed) > 1 and typed.isupper()
    if in_capitals or not typed[0].isupper() or listed in PRONOUNS:
        return False
    if _capital_follows.match(text, stop):
        return True
    return listed[0].islower() and not _sentence_start.search(text[:start])


def _spell(new: str, typed: str, listed: str, begins: bool) -> str:
    """A term in the capitals of what it replaces. begins: whether a sentence does with it."""
    if len(typed) > 1 and typed.isupper() and not listed.isupper():
        return new.upper()
    if typed != listed and typed.islower():
        return new.lower()
    if typed[0].isupper() and (begins or typed != listed):
        return new[0].upper() + new[1:]
    return new


def _fit_article(before: str, new: str, typed: str) -> str:
    """What stands before a term, with a or an at its end as the new one has it."""
    ending = "N" if len(typed) > 1 and typed.isupper() else "n"
    return _article.sub(rf"\g<1>{ending if _vowel.match(new) else ''}\g<2>", before)


# --------------------------------------------------------------------------------- where they lie
def load_terms(language: str) -> list[Kind]:
    """The package's own terms.

    Args:
        language: the code of the texts'; Simplified Chinese gets Traditional's, converted.

    Raises:
        SettingError: there are none; or the extra `chinese` is not installed.
    """
    known = json.loads(TERMS.read_text(encoding="utf-8"))
    root = language.partition("-")[0]
    key = TRADITIONAL if is_chinese(language) else root
    if key not in known:
        raise SettingError(
            f"The package has identity terms in {' and '.join(known)}, and the texts are in "
            f"{language}. Give some: --terms terms.csv, with the columns {', '.join(COLUMNS)}"
        )
    simplified = is_chinese(language) and language.lower() not in (TRADITIONAL, "zh-hk")
    spell = converter(TO_SIMPLIFIED) if simplified else str
    kept = tuple(map(spell, known[key]["kept"]))
    return [
        Kind(
            spell(kind),
            {spell(group): tuple(map(spell, terms)) for group, terms in groups.items()},
            kept,
        )
        for kind, groups in known[key]["kinds"].items()
    ]


def read_terms(path: Path) -> list[Kind]:
    """Terms of one's own.

    Args:
        path: a table with the columns kind, group and term, a row for each term. The n-th term of
            a group stands for the n-th of the others; an empty one says that it has none.

    Raises:
        DataError: it cannot be read, or its groups do not fit each other.
    """
    table = read_table(path)
    if missing := [name for name in COLUMNS if name not in table]:
        raise DataError(
            f"{path} has the columns {quoted(list(table))}, and no {quoted(missing)}. Expected "
            f"{', '.join(COLUMNS)}: python -m ulmfit_app experiment counterfactuals RUN --terms "
            f"{shlex.quote(str(path))}"
        )
    kinds = []
    for name, rows in table.apply(lambda cells: cells.str.strip()).groupby("kind", sort=False):
        terms = {group: tuple(of["term"]) for group, of in rows.groupby("group", sort=False)}
        _check(path, str(name), terms)
        kinds.append(Kind(str(name), terms))
    return kinds


def _check(path: Path, kind: str, terms: dict[str, tuple[str, ...]]) -> None:
    """Refuse groups that cannot stand in each other's places."""
    counts = {group: len(of) for group, of in terms.items()}
    if len(terms) < 2:
        raise DataError(
            f"{path}: the kind {kind!r} has one group, {quoted(list(terms))}, and nothing to swap "
            "it with. Add a group to it."
        )
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{group} {count:,}" for group, count in counts.items())
        raise DataError(
            f"{path}: the n-th term of a group stands for the n-th of the others, and those of "
            f"{kind!r} have different numbers of terms: {said}. Leave the term empty where a "
            "group has none."
        )
    owners: dict[str, str] = {}
    for group, of in terms.items():
        for term in filter(None, of):
            if owners.setdefault(term.lower(), group) != group:
                raise DataError(
                    f"{path}: {term!r} is a term of {owners[term.lower()]!r} and of {group!r} in "
                    f"the kind {kind!r}. Leave it to one of them."
                )
