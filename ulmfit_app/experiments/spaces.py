"""Spaces of settings that a search draws from, as small TOML files.

A table for each section of the settings, a line for each setting: a list is a choice, {low = …,
high = …} a range, which may be logarithmic (log = true) or in steps (step = …), and a single value
is fixed.

    [classifier]
    epochs = {low = 4, high = 12}
    lr_mult = {low = 0.3, high = 3.0, log = true}
    plan = ["full-discr", "published"]
    grad_clip = ["None", 0.25]
    batch_size = 32
"""

import itertools
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from operator import attrgetter
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ulmfit_app.config import (
    AugmentationSettings,
    ClassifierSettings,
    LanguageModelSettings,
    ModelSettings,
    Settings,
    TokenSettings,
)
from ulmfit_app.errors import SettingError, quoted
from ulmfit_app.experiments.used import find_unused, flag_of

SECTIONS: dict[str, type] = {
    "tokens": TokenSettings,
    "model": ModelSettings,
    "lm": LanguageModelSettings,
    "classifier": ClassifierSettings,
    "augment": AugmentationSettings,
}
NOT_SEARCHED = {
    "classifier.select_by": "decides what the search compares. Give it as "
    "--classifier.select-by instead.",
    "classifier.costs": "decides on answers, and a search compares models.",
    "classifier.thresholds": "decides on answers, and a search compares models.",
    "classifier.equal_recall": "decides on answers, and a search compares models.",
    "lm.lr_find": "changes no result.",
}
# What decides which of the other settings a run uses.
DECIDING = ("lm.pretrained", "lm.epochs", "classifier.plan", "augment.method", "tokens.language")


@dataclass(frozen=True)
class Choices:
    """One of some values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """A number between two, both included.

    Attributes:
        low, high: int where the setting is a whole number, else float.
        log: whether its logarithm is drawn.
        step: from low on; None: any number, or any whole one.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if isinstance(self.low, int) and not float(value).is_integer():
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return self.low <= value <= self.high and math.isclose(steps, round(steps), abs_tol=1e-9)

    @property
    def values(self) -> tuple[float, ...] | None:
        """All of them, lowest first; None where there is no end of them."""
        step = self.step or (1 if isinstance(self.low, int) and not self.log else None)
        if step is None:
            return None
        n = math.floor((self.high - self.low) / step + 1e-9) + 1
        return tuple(self.low + i * step for i in range(n))


@dataclass(frozen=True)
class Space:
    """What a search draws from.

    Attributes:
        drawn: of each setting, such as lm.lr, in the order of the file.
        fixed: of all trials but that of the defaults.
    """

    drawn: Mapping[str, Choices | Range]
    fixed: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """It as JSON writes it, by setting."""
        found: dict[str, Any] = {}
        for name, values in self.drawn.items():
            if isinstance(values, Choices):
                found[name] = ["None" if each is None else each for each in values.values]
            else:
                found[name] = {"low": values.low, "high": values.high}
                found[name] |= {"log": True} if values.log else {}
                found[name] |= {"step": values.step} if values.step is not None else {}
        fixed = {name: "None" if each is None else each for name, each in self.fixed.items()}
        return found | fixed

    def to_toml(self) -> str:
        """It as `read_space` reads it."""
        lines, section = [], None
        for name, values in sorted(self.to_json().items(), key=lambda item: item[0].split(".")[0]):
            if section != (section := name.split(".")[0]):
                lines += ["", f"[{section}]"]
            if isinstance(values, dict):
                inside = ", ".join(f"{key} = {json.dumps(each)}" for key, each in values.items())
                values = f"{{{inside}}}"
            else:
                values = json.dumps(values, ensure_ascii=False)
            lines.append(f"{name.split('.')[1]} = {values}")
        return "\n".join(lines[1:]) + "\n"

    def points(self) -> list[dict[str, Any]]:
        """All combinations, for a grid.

        Raises:
            SettingError: a range has no end of values.
        """
        for name, values in self.drawn.items():
            if values.values is None:
                kind = "logarithmic range" if values.log else "range of any numbers"
                raise SettingError(
                    f"A grid takes every value, and {name} is a {kind}, which has no end of them. "
                    f"Give a list, such as {name.split('.')[1]} = "
                    f"[{values.low:g}, {values.high:g}]"
                    + ("." if values.log else f", or a step: {{low = {values.low:g}, high = "
                       f"{values.high:g}, step = {(values.high - values.low) / 4:g}}}.")
                )  # fmt: skip
        every = itertools.product(*(values.values for values in self.drawn.values()))
        return [dict(zip(self.drawn, point, strict=True)) for point in every]


def with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings with others in their places.

    Args:
        settings: of a run.
        values: by name, as lm.lr.

    Raises:
        SettingError: a number that cannot be of its kind.
    """
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = value
    changed = {name: replace(getattr(settings, name), **of) for name, of in sections.items()}
    return replace(settings, **changed)


def settings_of(point: Mapping[str, Any], base: Settings) -> Settings:
    """What a trial runs with: what it does not use stays as it is in the command.

    Args:
        point: values by name.
        base: the command's settings.

    Raises:
        SettingError: a number that cannot be of its kind.
    """
    settings = with_values(base, point)
    unused = [name for name in find_unused(settings, "search") if name in point]
    return with_values(settings, {name: attrgetter(name)(base) for name in unused})


# ----------------------------------------------------------------------------------------- reading
def read_space(path: Path, base: Settings) -> Space:
    """Read a space.

    Args:
        path: a TOML file.
        base: the command's settings, which the space changes.

    Raises:
        SettingError: it is missing or no TOML, has a section or a setting that there is not, a
            range or a list without values, values that the settings do not take, or a setting
            that no trial would use.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError:
            raise SettingError(
                "Spaces are TOML, which Python 3.10 cannot read alone. Install what reads it: "
                "pip install 'ulmfit-app[search]'"
            ) from None
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError) as error:
        raise SettingError(
            f"--space {path} cannot be read: {getattr(error, 'strerror', None) or error}. "
            "Expected a TOML file. Without --space, the search writes its own as space.toml, "
            "to be copied and changed."
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"{path} is no TOML: {error}.") from None
    return parse_space(tables, base, str(path))


def parse_space(tables: Mapping[str, Any], base: Settings, where: str = "The space") -> Space:
    """The space that TOML's tables say.

    Args:
        tables: of each section, its settings.
        base: the command's settings.
        where: they are from, for people.

    Raises:
        SettingError: as `read_space` does.
    """
    drawn, fixed = {}, {}
    for section, table in tables.items():
        if hasattr(base, section) and section not in SECTIONS:
            raise SettingError(f"{where}: {section} is the same in all trials. Give it as an "
                               "option of the command instead, as --help lists them.")  # fmt: skip
        _require_known(section, [*SECTIONS], f"{where}: there is no section", "[{}]")
        if not isinstance(table, dict):
            raise SettingError(f"{where}: expected a table [{section}], found {table!r}.")
        hints = get_type_hints(SECTIONS[section], include_extras=True)
        for key, given in table.items():
            name = f"{section}.{key}"
            _require_known(key, [*hints], f"{where}: [{section}] has no setting")
            if name in NOT_SEARCHED:
                raise SettingError(f"{where}: {name} {NOT_SEARCHED[name]}")
            found = _parse(given, hints[key], f"{where}: {name}")
            if isinstance(found, Choices | Range):
                drawn[name] = found
            else:
                fixed[name] = found
    if all(len({*_ends(values)}) == 1 for values in drawn.values()):
        raise SettingError(
            f"{where} leaves nothing to search: expected a list or a range of several values "
            "for one setting or more, such as [classifier] and below it epochs = "
            "{low = 4, high = 12}."
        )
    space = Space(drawn, fixed)
    _require_accepted(space, base, where)
    _require_used(space, base, where)
    return space


def _require_known(name: str, known: list[str], sentence: str, shape: str = "{}") -> None:
    if name in known:
        return
    near = get_close_matches(name, known, 1, 0.5)
    guess = f" Did you mean {shape.format(near[0])}?" if near else f" There are {quoted(known)}."
    raise SettingError(f"{sentence} {name!r}.{guess}")


def _parse(given: Any, hint: Any, where: str) -> Any:
    """Choices, a Range, or the fixed value that a line gives."""
    if isinstance(given, list):
        if not given:
            raise SettingError(f"{where}: the list is empty. Expected one value or more.")
        values = tuple(_typed(each, hint, where) for each in given)
        return Choices(tuple(dict.fromkeys(values)))
    if isinstance(given, dict):
        return _parse_range(given, hint, where)
    return _typed(given, hint, where)


def _parse_range(given: dict[str, Any], hint: Any, where: str) -> Range:
    for key in given:
        _require_known(key, ["low", "high", "log", "step"], f"{where}: a range has no")
    if not {"low", "high"} <= given.keys():
        raise SettingError(f"{where}: expected a range with low and high, found {given}.")
    kinds = _kinds_of(hint)
    if not {int, float} & {*kinds}:
        raise SettingError(
            f"{where} is no number, so there is no range of it. Give a list of values."
        )
    is_whole = float not in kinds
    numbers = {
        key: _typed(given[key], int if is_whole else float, f"{where}: {key}")
        for key in ("low", "high", "step")
        if key in given
    }
    log = given.get("log", False)
    if not isinstance(log, bool):
        raise SettingError(f"{where}: expected log = true or log = false, found {log!r}.")
    low, high, step = numbers["low"], numbers["high"], numbers.get("step")
    if not all(map(math.isfinite, numbers.values())):
        raise SettingError(f"{where}: expected finite numbers, found {given}.")
    if low > high:
        raise SettingError(f"{where}: low is {low:g}, and more than high, {high:g}.")
    if log and low <= 0:
        raise SettingError(f"{where}: a logarithm needs low above 0, not {low:g}.")
    if step is not None and (step <= 0 or log):
        why = "with log there is none" if log else f"not {step:g}"
        raise SettingError(f"{where}: expected a step above 0, {why}.")
    return Range(low, high, log, step)


def _kinds_of(hint: Any) -> list[Any]:
    """The types of a setting's values, of Literal the words, of None None itself."""
    if get_origin(hint) is Annotated:
        return _kinds_of(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return [kind for each in get_args(hint) for kind in _kinds_of(each)]
    if get_origin(hint) is Literal:
        return [*get_args(hint)]
    return [None if hint is type(None) else hint]


def _typed(given: Any, hint: Any, where: str) -> Any:
    """A value of a setting's type. "None" is nothing where that may be."""
    kinds = _kinds_of(hint)
    if given == "None" and None in kinds:
        return None
    words = [kind for kind in kinds if isinstance(kind, str)]
    if words and isinstance(given, str):
        _require_known(given, words, f"{where} cannot be")
        return given
    if isinstance(given, bool):
        found = given if bool in kinds else None
    elif isinstance(given, int | float) and float in kinds:
        found = float(given)
    elif isinstance(given, int) or (isinstance(given, float) and given.is_integer()):
        found = int(given) if int in kinds else None
    else:
        found = given if isinstance(given, str) and str in kinds else None
    if found is None:
        spelled = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
        expected = [spelled.get(kind, repr(kind)) for kind in kinds if kind is not None]
        expected += ['"None"'] if None in kinds else []
        raise SettingError(f"{where}: expected {' or '.join(expected)}, found {given!r}.")
    return found


def _ends(values: Choices | Range) -> tuple[Any, ...]:
    return values.values if isinstance(values, Choices) else (values.low, values.high)


def _require_accepted(space: Space, base: Settings, where: str) -> None:
    """Refuse values that settings refuse."""
    every = {name: _ends(values) for name, values in space.drawn.items()}
    for name, values in (every | {name: (each,) for name, each in space.fixed.items()}).items():
        for value in values:
            try:
                with_values(base, {name: value})
            except SettingError as error:
                raise SettingError(f"{where}: {name}: {error}") from None


def _require_used(space: Space, base: Settings, where: str) -> None:
    """Refuse settings that no trial would use."""
    deciding = [name for name in DECIDING if name in space.drawn]
    ways = itertools.product(*(_ends(space.drawn[name]) for name in deciding))
    unused = [
        find_unused(
            with_values(base, {**space.fixed, **dict(zip(deciding, way, strict=True))}), "search"
        )
        for way in ways
    ]
    for name in (*space.drawn, *space.fixed):
        if all(name in each for each in unused):
            why, _, instead = unused[0][name].removesuffix(".").partition(" Leave it out")
            raise SettingError(
                f"{where}: {name} would be ignored: {flag_of(name)} {why} Take it out{instead}."
            )


def fields_of(settings: Settings) -> dict[str, Any]:
    """All settings by name, as lm.lr."""
    found = {}
    for each in fields(settings):
        value = getattr(settings, each.name)
        if hasattr(value, "__dataclass_fields__"):
            found |= {f"{each.name}.{one.name}": getattr(value, one.name) for one in fields(value)}
        else:
            found[each.name] = value
    return found
