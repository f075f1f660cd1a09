"""Which words of a text moved its prediction.

Two methods, whose scores have one unit: the log-odds of a label. A probability near 1 hardly
moves, whatever is taken out; of one text, both put the words in one order.

Occlusion: how far the log-odds fall when a word is taken out (Li, Monroe and Jurafsky 2016,
arXiv:1612.08220). The word goes without a trace, as if it had never been typed. xxunk in its place
would say that a rare word stands there, which a classifier of reviews, say, has learned from too:
most rare words are names.

Gradient times input: how far they would fall if a word's embedding shrank to zero and they went on
falling as they begin to (Shrikumar et al. 2016, arXiv:1605.01713). One pass for all words, and
less faithful. Of a transformer, whose embeddings go through a layer normalisation that undoes such
shrinking, the gradients along the way from padding to the text are averaged: integrated gradients
(Sundararajan et al. 2017, arXiv:1703.01365), in a few passes.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from html import escape as escape_html
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ulmfit_app.data.characters import INVISIBLE, escape
from ulmfit_app.data.encodings import LONE_SURROGATE
from ulmfit_app.errors import SettingError, quoted
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.evaluation.messages import say
from ulmfit_app.evaluation.tables import read_set
from ulmfit_app.inference.decided import choose, decided_by
from ulmfit_app.inference.predictor import Predictor
from ulmfit_app.languages import UNSPACED
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tracing import Span

Method = Literal["occlusion", "gradient"]
MOST_SPANS = 250  # that occlusion takes out, one by one
TOP = 10  # words that are shown
PATH = tuple((i + 0.5) / 16 for i in range(16))  # of integrated gradients: shares of the way
LONGEST_NAME = 60  # characters of a span in a list

_letter = re.compile(rf"[^\W{UNSPACED}]")
_goes_on = re.compile(rf"['’]?[^\W{UNSPACED}]")
_blank = re.compile(r"[^\S\n]+")  # white space that makes no new line
# In a text on a terminal, which would obey some of them; its lines stay lines.
_unseen = re.compile(rf"{INVISIBLE.pattern}|\r")
# Bold blue and underlined yellow: told apart without their colours, too.
_ANSI_FOR, _ANSI_AGAINST, _ANSI_END = "\x1b[1;34m", "\x1b[4;33m", "\x1b[0m"


class Word(NamedTuple):
    """Characters text[start:stop], and the tokens first:last that came from them."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Explanation:
    """What moved the probability of a label for a text.

    Args:
        text: as it was explained, lone surrogates replaced.
        label: whose probability is explained.
        probability: of the label.
        threshold: what it has to reach, of several labels a text; None: of one.
        method: "occlusion" or "gradient".
        n_words: in the text.
        words: one row per word, or per run of words where there are too many to take out one by
            one, in the order of the text. Its columns: start, stop (the characters
            text[start:stop]), word, score (by how much the word raises the log-odds of the label,
            in nats), without (the label's probability without it; NaN by gradient).
        decided_by: "costs" or "thresholds", where they chose the label; of several labels a text,
            "costs" where they made the threshold; else "".
    """

    text: str
    label: str
    probability: float
    method: Method
    n_words: int
    words: pd.DataFrame
    threshold: float | None = None
    decided_by: str = ""

    def strongest(self, top: int = TOP) -> pd.DataFrame:
        """The rows of `words` with the scores farthest from 0, farthest first."""
        words = self.words[self.words["score"] != 0]
        return words.iloc[np.argsort(-words["score"].abs(), kind="stable")[:top]]

    def __repr__(self) -> str:
        return self.terminal()

    def terminal(self, top: int = TOP, colour: bool = False) -> str:
        """A list of the strongest words, and the text with them marked, for a terminal.

        Args:
            top: words that are shown.
            colour: mark by colour and style, instead of as {+for+} the label and [-against-] it.
        """

        def mark(shown: str, score: float) -> str:
            if colour:
                return f"{_ANSI_FOR if score > 0 else _ANSI_AGAINST}{shown}{_ANSI_END}"
            return f"{{+{shown}+}}" if score > 0 else f"[-{shown}-]"

        rows = self.strongest(top)
        lines = [self._heading()]
        if len(rows):
            lines += ["", "  log-odds" + ("" if self.method == "gradient" else "  without it")]
        for row in rows.itertuples():
            without = "" if self.method == "gradient" else f"  {_rounded(row.without):>10}"
            word = escape(_name(row.word))
            lines.append(
                f"  {row.score:>+8.2f}{without}  {mark(word, row.score) if colour else word}"
            )
        if len(rows):
            speaks = f"what speaks {mark('for', 1)} the label and {mark('against', -1)} it:"
            lines += ["", f"In the text, {speaks}"]
        return "\n".join(
            [*lines, self._marked(rows, _visible, lambda row: mark(_visible(row.word), row.score))]
        )

    def html(self, top: int = TOP, how: bool = True) -> str:
        """A fragment for a page: the text with its strongest words marked, escaped.

        Args:
            top: words that are marked.
            how: with a sentence that says how they are marked.
        """
        rows = self.strongest(top)
        largest = rows["score"].abs().max()

        def mark(row) -> str:
            title = say(
                "{score:+.2f} to the log-odds of {label}",
                score=row.score,
                label=escape(self.label),
            )
            if self.method == "occlusion":
                title += say("; {p} without it", p=_rounded(row.without))
            share = 0.15 + 0.35 * abs(row.score) / largest
            # <b> and <u> say it without the colour.
            tag, rgb = ("b", "31 119 180") if row.score > 0 else ("u", "255 127 14")
            style = f"background: rgb({rgb} / {share:.2f})"
            shown = f'style="{style}" title="{escape_html(title)}"'
            return f"<{tag} {shown}>{escape_html(row.word)}</{tag}>"

        text = (
            '<p dir="auto" style="white-space: pre-wrap">'
            f"{self._marked(rows, escape_html, mark)}</p>"
        )
        key = "<b>Bold</b> words speak for it, <u>underlined</u> ones against it."
        return f'<p class="how">{escape_html(self._heading())} {key}</p>{text}' if how else text

    _repr_html_ = html

    def _heading(self) -> str:
        label, p = escape(self.label), _rounded(self.probability)
        by = f", by {self.decided_by}" if self.decided_by else ""
        limit = "" if self.threshold is None else f" (threshold {self.threshold:.3g}{by})"
        found = f"{label} {p}{limit}: what moved it most, by {self.method}."
        if self.decided_by and self.threshold is None:
            found += f" Chosen by {self.decided_by}: it need not be the likeliest label."
        if self.n_words > len(self.words):
            at_a_time = math.ceil(self.n_words / len(self.words))
            found += f" Of {self.n_words:,} words, {at_a_time} at a time were taken out."
        return found

    def _marked(self, rows: pd.DataFrame, plain: Callable[[str], str], mark: Callable) -> str:
        pieces, done = [], 0
        for row in rows.sort_values("start").itertuples():
            pieces += [
                plain(self.text[done : row.start]),
                mark(row) if row.word.strip() else plain(row.word),
            ]
            done = row.stop
        return "".join([*pieces, plain(self.text[done:])])


def _rounded(probability: float) -> str:
    """What is not quite certain is not shown as if it were."""
    if 0.9995 <= probability < 1:
        return ">0.999"
    return "<0.001" if 0 < probability < 0.0005 else f"{probability:.3f}"


def _visible(text: str) -> str:
    return escape(text, _unseen)


def _name(word: str) -> str:
    """A span on one line."""
    line = " ".join(word.split()) or "(line break)"
    return line if len(line) <= LONGEST_NAME else f"{line[:LONGEST_NAME]} …"


def find_words(text: str, tokens: list[Span]) -> list[Word]:
    """The words of a text as they were typed, with the tokens of each.

    A word is all tokens that came from the same characters, and those that touch: is and n't, or s
    and the ooo of sooo. Punctuation is a word of its own, and so is what makes a new line.

    Args:
        text: as it was typed.
        tokens: what `Tokenizer.spans` gives for it.

    Returns:
        Words in the order of the text; each token but the first belongs to one of them.
    """
    words: list[Word] = []
    first = None  # of the markers before a word, which came from no characters
    for i, token in enumerate(tokens[1:], start=1):
        first = i if first is None else first
        # Some subwords are white space alone, which belongs to the word behind it.
        if token.start == token.stop or _blank.fullmatch(text, token.start, token.stop):
            continue
        touches = words and token.start == words[-1].stop and _letter.match(text, token.start - 1)
        if words and (
            token.start < words[-1].stop
            or (touches and _goes_on.match(text, token.start, token.stop))
        ):
            words[-1] = words[-1]._replace(stop=max(token.stop, words[-1].stop), last=i + 1)
        else:
            words.append(Word(token.start, token.stop, first, i + 1))
        first = None
    if words and first is not None:
        words[-1] = words[-1]._replace(last=len(tokens))
    return words


def explain(
    predictor: Predictor, text: str, method: Method = "occlusion", label: str | None = None
) -> Explanation:
    """Which words moved the probability of a label for a text.

    Two directions are explained as what they are together, the mean of their probabilities.

    Args:
        predictor: of the labels; gradients need one in fp32.
        text: to explain.
        method: "occlusion" predicts the text once for each word, or each run of words where it has
            more than MOST_SPANS; "gradient" takes one pass.
        label: to explain; None: the one that is predicted, and of several the likeliest.

    Raises:
        SettingError: a label or method that there is not, and as `Predictor.differentiable` does.
    """
    # As a label is read from a file: without the white space around it.
    label = label if label in (None, *predictor.labels) else label.strip()
    if label is not None and label not in predictor.labels:
        names = {name.casefold(): name for name in predictor.labels}
        near = [names[name] for name in get_close_matches(label.casefold(), names)]
        found = f"Did you mean {quoted(near)}? " if near else ""
        raise SettingError(
            f"There is no label {quoted([label])}. {found}There are {quoted(predictor.labels)}."
        )
    text = LONE_SURROGATE.sub("\ufffd", text)
    tokens = predictor.tokenizer.spans(text)
    store = predictor.store_of([[token.token for token in tokens]])
    index = _predicted(predictor, store) if label is None else predictor.labels.index(label)
    words = find_words(text, tokens)
    if method == "occlusion":
        spans = _runs(words)
        probability, scores, without = _occlusion(predictor, tokens, spans, index)
    elif method == "gradient":
        spans = words
        probability, of_tokens = _gradient_times_input(predictor, store, index)
        scores = np.array([of_tokens[word.first : word.last].sum() for word in words])
        without = np.full(len(words), np.nan)
    else:
        raise SettingError(f"There is no method {method!r}. There are: occlusion, gradient")
    table = pd.DataFrame([(span.start, span.stop, text[span.start : span.stop]) for span in spans])
    table = (
        table.reindex(columns=range(3))
        .set_axis(["start", "stop", "word"], axis=1)
        .assign(score=scores, without=without)
    )
    named, decision = predictor.labels[index], predictor.decision
    reach = float(decision.limits(len(predictor.labels))[index]) if decision.multilabel else None
    by = decided_by(decision) if label is None or decision.multilabel else ""
    return Explanation(text, named, probability, method, len(words), table, reach, by)


def predicted_labels(predictor: Predictor, text: str) -> list[str]:
    """Which of several labels a text is given, the likeliest first."""
    return read_set(predictor.predict([text])["predicted"][0])


def _predicted(predictor: Predictor, store: TokenStore) -> int:
    """The label that is given, or of several the likeliest of them, or of all."""
    probabilities = predictor.probabilities(store)
    given = choose(predictor.decision, probabilities)[0]
    return given[0] if given else int(probabilities[0].argmax())


def _runs(words: list[Word]) -> list[Word]:
    """At most MOST_SPANS runs of words, as even as they can be."""
    parts = np.array_split(np.arange(len(words)), min(len(words), MOST_SPANS) or 1)
    ends = [(words[part[0]], words[part[-1]]) for part in parts if len(part)]
    return [Word(one.start, other.stop, one.first, other.last) for one, other in ends]


def _occlusion(
    predictor: Predictor, tokens: list[Span], spans: list[Word], label: int
) -> tuple[float, np.ndarray, np.ndarray]:
    """The label's probability, the fall of its log-odds without each span, and its probability
    then.

    The latter two are [n_spans].
    """
    names = [token.token for token in tokens]
    texts = [names, *(names[: span.first] + names[span.last :] for span in spans)]
    probabilities = predictor.probabilities(
        predictor.store_of(texts), description="Taking words out"
    )
    if predictor.decision.multilabel:
        others = np.maximum(1 - probabilities[:, label], np.finfo(float).epsneg)
    else:
        # Not 1 - p: near 1, all of it would be rounding.
        others = np.delete(probabilities, label, axis=1).sum(axis=1)
    smallest = np.finfo(float).tiny
    odds = np.log(np.maximum(probabilities[:, label], smallest)) - np.log(
        np.maximum(others, smallest)
    )
    return float(probabilities[0, label]), odds[0] - odds[1:], probabilities[1:, label]


def _log_odds(alone: Tensor, decision: Decision, label: int) -> Tensor:
    """Of a label, by the calibrated mean of what each direction says.

    Args:
        alone: as `Predictor.differentiable` gives them, [directions, n_labels].
        decision: of the mean.
        label: its number.
    """
    if decision.multilabel:
        of_label = alone[:, label]
        temperature = decision.temperatures[label if len(decision.temperatures) > 1 else 0]
        return (
            logsigmoid(of_label).logsumexp(0) - logsigmoid(-of_label).logsumexp(0)
        ) / temperature
    mean = alone.logsumexp(0) - math.log(len(alone))
    log_p = (mean / decision.temperature).log_softmax(0)
    return log_p[label] - torch.cat([log_p[:label], log_p[label + 1 :]]).logsumexp(0)


def _gradient_times_input(
    predictor: Predictor, store: TokenStore, label: int
) -> tuple[float, np.ndarray]:
    """The label's probability, and what each token adds to its log-odds by gradients.

    The latter is [n_tokens], in the order of the text.
    """
    scores = np.zeros(len(store[0]))
    shares = PATH if predictor.bundle.architecture == "transformer" else (1.0,)
    for share in shares:
        found = predictor.differentiable(store, share)
        alone = torch.stack([log_p for log_p, _, _ in found.values()])
        odds = _log_odds(alone, predictor.decision, label)
        gradients = torch.autograd.grad(odds, [embedded for _, embedded, _ in found.values()])
        for (direction, (_, _, way)), gradient in zip(found.items(), gradients, strict=True):
            here = (way * gradient)[0].sum(1).double().cpu().numpy() / len(shares)
            scores += here[::-1] if direction == "backward" else here
    return float(predictor.probabilities(store)[0, label]), scores
