"""New texts to be monitored, from a file: a table, feedback, or the log of a server's answers."""

from pathlib import Path

from ulmfit_app.config import Quotes
from ulmfit_app.data.opening import is_compressed
from ulmfit_app.data.reading import read_chunks, read_texts
from ulmfit_app.errors import DataError, count_texts, quoted
from ulmfit_app.evaluation.drift import NewTexts
from ulmfit_app.inference.file_checks import choose_text_column
from ulmfit_app.inference.predicted_file import EMPTY, count_empty
from ulmfit_app.serving.reading import read_answers
from ulmfit_app.serving.records import ANSWERS, FEEDBACK, first_line, parse_record


def read_new(
    path: Path, text: str | None, encoding: str, quotes: Quotes, own: str | None, model: str
) -> NewTexts:
    """Texts of a file, or of a server's log without texts the answers of a model.

    Args:
        path: a table of texts, or what `serve --log` or `serve --feedback` wrote.
        text: the column of the texts; None: the run's own, or the only one.
        encoding, quotes: as `data.reading.read_chunks` takes them.
        own: the column of the run's own texts.
        model: id of the run's model.

    Raises:
        DataError: the file cannot be read, has no texts, or is the log of another model.
        SettingError: as `read_chunks` raises it.
    """
    kind = _server_record(path)
    if kind is not None and "text" not in kind:
        return _read_log(path, model)
    columns = list(next(read_chunks(path, encoding, 1, quotes)))
    chosen = choose_text_column(columns, path, text, "text" if kind is not None else own)
    notes: list[str] = []
    column, frames = read_texts(path, chosen, encoding, 10_000, quotes, notes)
    texts = [cell for frame in frames for cell in frame[column]]
    notes.insert(0, f"Texts: column {quoted([column])} of {path}, {count_texts(len(texts))}.")
    n_empty = count_empty(texts)
    if n_empty == len(texts):
        raise DataError(
            f"{path} has no text in column {quoted([column])}: all {len(texts):,} are empty. Name "
            "the column that holds them: --text COLUMN"
        )
    if n_empty:
        notes.append(EMPTY % n_empty)
    return NewTexts(path.name, texts, None, notes)


def _server_record(path: Path) -> dict | None:
    """The first line of what a server wrote; None of other files."""
    if not path.is_file() or is_compressed(path):
        return None
    line = first_line(path)
    return parse_record(line, ANSWERS) or parse_record(line, FEEDBACK)


def _read_log(path: Path, model: str) -> NewTexts:
    written = read_answers(path)
    counts = written.table["model"].value_counts()
    if model not in counts:
        there = "; ".join(f"{name} ({n:,} answers)" for name, n in counts.items())
        raise DataError(
            f"{path} has no answers of this run's model, {model}. It has those of: {there}. Name "
            "the run that the server served."
        )
    table = written.table[written.table["model"] == model]
    once = table.drop_duplicates("hash", keep="first")
    notes = [
        *written.notes,
        f"{path} is the log of a server without texts: only labels and confidence are compared. "
        "With texts, all is: python -m ulmfit_app serve RUN --log FILE --log-texts",
        f"{count_texts(len(once))} of {len(table):,} answers: each text counts once.",
    ]
    return NewTexts(path.name, [], once, notes)
