"""Label texts with the classifier in this folder, without torch, fastai or ulmfit-app.

pip install -r requirements.txt
python run.py "a text" "another"      labels with probabilities
python run.py < texts.txt             the same, one text per line
"""

# `export` copies this file as run.py; what it imports lies beside it there.

import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path

FOLDER = Path(__file__).parent
AT_ONCE = 512  # lines that are read before the first is answered
USAGE, DEFECT, DISK_ERROR, BROKEN_PIPE = 2, 4, 7, 141  # exit codes: those of ulmfit-app


def read_tokenizer(folder: Path) -> Callable[[Sequence[str]], list]:
    """What gives the ids of some texts, [n_tokens] each.

    Args:
        folder: of settings.json and tokenizer.json.
    """
    import numpy as np

    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    definition = (folder / "tokenizer.json").read_text(encoding="utf-8")
    if settings["begin"] is not None:
        # Where one is missing, the extra of ulmfit-app that has it is of no use here.
        for library in ("tokenizers", *(["opencc"] if settings["opencc"] else [])):
            import_module(library)
        from tokens.subwords import SubwordTokenizer

        return SubwordTokenizer(definition, settings["begin"], settings["opencc"]).ids
    from tokens.rules import FAKE, UNK_ID
    from tokens.tokenizer import Tokenizer, without_torch

    without_torch()
    words = json.loads(definition)
    ids = {word: i for i, word in enumerate(words["vocab"]) if word != FAKE}
    tokenizer = Tokenizer(words["language"])
    return lambda texts: [
        np.array([ids.get(token, UNK_ID) for token in tokens]) for tokens in tokenizer.each(texts)
    ]


def read_lines() -> Iterator[str]:
    """The lines of standard input, without their ends."""
    lines = io.TextIOWrapper(sys.stdin.buffer, "utf-8-sig", errors="replace", newline="\n")
    return (line.rstrip("\r\n") for line in lines)


def answers(texts: Iterable[str]) -> Iterator[str]:
    """A line per text: the label, or a list of several; the probabilities of all labels; the
    text."""
    from onnx_runner import Answers, OnnxClassifier
    from tokens.characters import INVISIBLE, escape

    odd = re.compile(rf"{INVISIBLE.pattern}|[\t\n\r\u2028\u2029]")
    labels = json.loads((FOLDER / "labels.json").read_text(encoding="utf-8"))
    tokenize, classifier = read_tokenizer(FOLDER), OnnxClassifier.open(FOLDER)
    decided = Answers.open(FOLDER)
    texts = (re.sub("[\ud800-\udfff]", "\ufffd", text) for text in texts)
    while some := list(islice(texts, AT_ONCE)):
        probabilities = classifier.probabilities(tokenize(some))
        chosen = decided.choose(probabilities)
        for text, found, of in zip(some, probabilities, chosen, strict=True):
            names = [labels[i] for i in of]
            said = json.dumps(names, ensure_ascii=False) if decided.multilabel else names[0]
            shares = ", ".join(
                f"{escape(label)} {p:.3f}" for label, p in zip(labels, found, strict=True)
            )
            yield f"{escape(said)}\t{shares}\t{escape(text, odd)}"


def write(text: str) -> int:
    """Print what has no more to wait for; the exit code where nobody can read it, else 0."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        print(f"Error: the answers cannot be written: {error.strerror}.", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DISK_ERROR
    return 0


def main(texts: Sequence[str]) -> int:
    """Answer texts, or the lines of standard input where there are none.

    Returns:
        The exit code.
    """
    has_input = sys.stdin is not None and not sys.stdin.isatty()
    if texts[:1] in (["-h"], ["--help"]) or not (texts or has_input):
        print(__doc__)
        return 0 if texts else USAGE
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    from tokens.errors import UserError

    try:
        for line in answers(texts or read_lines()):
            if code := write(f"{line}\n"):
                return code
        return write("")
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except ImportError as error:
        print(f"Error: {error}. Run: pip install -r requirements.txt", file=sys.stderr)
        return USAGE
    except (OSError, ValueError, KeyError) as error:
        print(f"Error: {FOLDER} is not whole: {error}. Export it again.", file=sys.stderr)
        return DEFECT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
