"""What every report is made of: its files, its figures on disk, and notes on fonts."""

import json
import logging
import math
import re
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from data_scripts.files import replacing
from ulmfit_app.evaluation import drawing, figures
from ulmfit_app.evaluation.fonts import families_for, how_to_install
from ulmfit_app.evaluation.messages import Message, ReportLanguage, characters_of, known
from ulmfit_app.evaluation.scripts import script_of
from ulmfit_app.languages import is_chinese

log = logging.getLogger(__name__)


def training_figures(histories: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The training curves of each stage that was trained, by name."""
    return {
        f"training_{re.sub(r'[^a-z0-9]+', '_', stage.lower())}": figures.training_curves_figure(
            history, _sentence(known(stage))
        )
        for stage, history in histories.items()
        if len(history)
    }


def write_figures(folder: Path, drawn: dict[str, Figure]) -> dict[str, bytes]:
    """Write figures as PNG files, and return their bytes, by name."""
    for name, figure in drawn.items():
        with replacing(folder / f"{name}.png") as draft:
            drawing.save_png(figure, draft)
    return {name: (folder / f"{name}.png").read_bytes() for name in drawn}


def _sentence(begun: str) -> str:
    return begun[:1].upper() + begun[1:]


def can_draw(language: ReportLanguage) -> bool:
    """Whether fonts of this machine have the words of a report in a language."""
    missing = families_for(characters_of(language))[1]
    if missing:
        log.info("%s %s", _WITHOUT_FONT, how_to_install(missing))
    return not missing


_WITHOUT_FONT = Message(
    "No font on this machine has the words of the figures: they are in English."
)


def note_on_fonts(labels: list[str], language: ReportLanguage) -> list[str]:
    """Sentences on what no font here can draw of class names and of a report's words."""
    hidden = [labels[index] for index in drawing.undrawable(labels)]
    notes = []
    if hidden:
        note = Message(
            "No font on this machine can draw the names of {n} of the {n_classes} classes: "
            "figures show their numbers instead, which the table of each class gives. {install}",
            n=len(hidden),
            n_classes=len(labels),
            install=how_to_install(set("".join(hidden))),
        )
        notes.append(note)
    if missing := families_for(characters_of(language))[1]:
        notes += [_WITHOUT_FONT] if hidden else [_WITHOUT_FONT, how_to_install(missing)]
    return notes


def language_of(texts: pd.Series, code: str) -> str:
    """The language of texts as a page names it in `lang`. code: their language's, or ""."""
    if code and not is_chinese(code):
        return code
    # Enough to tell: all of a large data set would take seconds.
    return script_of("".join(texts.head(200).str[:200])) or code


def without_lone_surrogates(cell):
    """A lone surrogate, which has no UTF-8, as U+FFFD; as it stands in a run's texts already."""
    return re.sub("[\ud800-\udfff]", "\ufffd", cell) if isinstance(cell, str) else cell


def for_json(value):
    """The facts without durations, and without NaN and Infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {key: for_json(one) for key, one in value.items() if key != "durations"}
    if isinstance(value, (list, tuple)):
        return [for_json(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return f"not a finite number ({value})"
    return value


def as_json(metrics: dict) -> str:
    """Indented JSON with each row of numbers, such as one of a confusion matrix, on one line."""
    text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False)
    # Inside a JSON string a line never breaks, so that this touches no string.
    rows = r"\[\n\s+([-+.\de]+(?:,\n\s+[-+.\de]+)*)\n\s+\]"
    return re.sub(rows, lambda row: f"[{' '.join(row[1].split())}]", text) + "\n"


def write_text(path: Path, text: str) -> None:
    """As UTF-8; a lone surrogate, which has none, becomes its escape, which JSON reads back."""
    with replacing(path) as draft:
        draft.write_bytes(text.encode("utf-8", errors="backslashreplace"))
