"""Settings as JSON, as run.json has them."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ulmfit_app import config
from ulmfit_app.config import Settings

# Settings that came later are left out while they are at their defaults: what a run depends on is
# then written as it was before.
LATER = {
    "data": ("multilabel", "separator", "label_columns", "without_label", "groups", "time"),
    "tokens": ("opencc",),
    "classifier": (
        *("balance", "select_by", "thresholds", "costs", "equal_recall"),
        *("lr_mult", "decay", "drop_mult", "recompute"),
    ),
}


def section_to_json(settings: Settings, name: str) -> dict[str, Any]:
    """One section as JSON writes it."""
    section = getattr(settings, name)
    later = LATER.get(name, ())
    defaults = {each.name: each.default for each in fields(section)}
    return {
        key: _plain(value)
        for key, value in asdict(section).items()
        if key not in later or value != defaults[key]
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def to_json(settings: Settings) -> dict[str, Any]:
    """Settings as JSON writes them."""
    values = {name: section_to_json(settings, name) for name in config.SECTIONS}
    if not settings.distillation.teachers:  # nothing reads it then
        del values["distillation"]
    if settings.augment.method == "none":
        del values["augment"]
    if not settings.update.parent:
        del values["update"]
    others = [each.name for each in fields(settings) if each.name not in config.SECTIONS]
    return values | {name: getattr(settings, name) for name in others}


def flatten(values: dict[str, Any]) -> dict[str, Any]:
    """Nested tables, such as settings as JSON writes them, as one of names joined by dots.

    >>> flatten({"lm": {"lr": 0.004}, "seed": 42})
    {'lm.lr': 0.004, 'seed': 42}
    """
    found = {}
    for name, value in values.items():
        inner = flatten(value) if isinstance(value, dict) else None
        found |= {name: value} if inner is None else {f"{name}.{k}": v for k, v in inner.items()}
    return found


_CLASSES = {
    "data": config.DataSettings,
    "tokens": config.TokenSettings,
    "model": config.ModelSettings,
    "lm": config.LanguageModelSettings,
    "classifier": config.ClassifierSettings,
    "distillation": config.DistillationSettings,
    "augment": config.AugmentationSettings,
    "update": config.UpdateSettings,
}
_PATHS = ("data", "costs")


def from_json(values: dict[str, Any]) -> Settings:
    """The inverse of `to_json`.

    Raises:
        KeyError, TypeError: a section or field is missing, or there is one too many.
        SettingError: a number that cannot be of its kind.
    """
    optional = {"distillation": {}, "augment": {}, "update": {}}
    sections = {
        name: _CLASSES[name](**_typed((optional | values)[name])) for name in config.SECTIONS
    }
    others = {name: value for name, value in values.items() if name not in config.SECTIONS}
    return Settings(**sections, **others)


def _typed(section: dict[str, Any]) -> dict[str, Any]:
    found = dict(section)
    for name in section:
        if name in _PATHS and section[name] is not None:
            found[name] = Path(section[name])
        elif isinstance(section[name], list):
            found[name] = tuple(section[name])
    return found
