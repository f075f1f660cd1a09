"""A trained model with more words and more labels than it had.

What it knows stays as it is: words keep their ids, and new ones stand behind them. A new word or
label begins as the mean of those that are known, as fastai's `match_embeds` has it of words.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ulmfit_app.models import awd_lstm, transformer
from ulmfit_app.models.bundle import Bundle, load_bundle, load_weights
from ulmfit_app.models.prune import build_classifier
from ulmfit_app.models.shapes import Shape, TransformerShape
from ulmfit_app.text.rules import FAKE
from ulmfit_app.text.store import TokenStore

ENCODER = "0.module."  # before the names of an encoder's weights in a classifier
EMBEDDINGS = ("encoder.weight", "encoder_dp.emb.weight")  # of an AWD-LSTM's encoder


# ------------------------------------------------------------------------------------------- words
def grow_vocab(
    known: Sequence[str], store: TokenStore, texts: Iterable[int], min_freq: int, most: int
) -> list[str]:
    """A vocabulary and behind it the new words of some texts, most frequent first.

    Args:
        known: the word of each id, filled with FAKE; all keep their ids.
        store: tokenized texts.
        texts: which of them, by number.
        min_freq: a rarer word gets no id.
        most: new words.

    Returns:
        The word of each id, filled with FAKE to a multiple of 8; `known` itself where no word is
        new.
    """
    counts, have = store.counts(texts), set(known)
    by_count = sorted(range(len(counts)), key=lambda i: -counts[i])
    frequent = [store.words[i] for i in by_count if counts[i] >= max(min_freq, 1)]
    new = [word for word in frequent if word not in have and word != FAKE][:most]
    if not new:
        return list(known)
    grown = [*(word for word in known if word != FAKE), *new]
    return grown + [FAKE] * (8 - len(grown) % 8)


def find_new(words: Sequence[str], known: Sequence[str]) -> Tensor:
    """Which words a vocabulary did not have, bool [n_words].

    >>> find_new(["a", "b", "c"], known=["a", "c"]).tolist()
    [False, True, False]
    """
    have = set(known)
    return torch.tensor([word not in have for word in words])


def grow_rows(rows: Tensor, names: Sequence[str], known: Sequence[str]) -> Tensor:
    """A row for each name: its own where it had one, else the mean of all.

    Args:
        rows: [n_known, ...].
        names: of the rows that are wanted.
        known: of those that there are.

    >>> grow_rows(torch.tensor([[0.0], [2.0]]), ["a", "new", "b"], ["a", "b"]).tolist()
    [[0.0], [1.0], [2.0]]
    """
    place = {name: i for i, name in enumerate(known)}
    with_mean = torch.cat([rows, rows.mean(0, keepdim=True)])
    return with_mean[torch.tensor([place.get(name, len(rows)) for name in names])]


# -------------------------------------------------------------------------------------- classifier
@dataclass(frozen=True)
class Grown:
    """A classifier to go on from.

    Attributes:
        shape: the config of its architecture.
        weights: parameters, fp32, under the names of the model that `build_classifier` makes.
        fresh: name of a parameter -> which of its rows are new, bool [n_rows].
    """

    shape: Shape
    weights: dict[str, Tensor]
    fresh: dict[str, Tensor]


def grow_classifier(
    folder: Path, labels: Sequence[str], before: Bundle, after: Bundle, share: float
) -> Grown:
    """A trained classifier with the words of a language model that went on learning, and labels.

    What the language model learned since is added to the classifier's encoder: its weights less
    those that it had, a "task vector" (Ilharco et al. 2023, "Editing Models with Task
    Arithmetic", section 2). The embeddings of new words get all of it: they know nothing else.

    Args:
        folder: of the classifier's bundle.
        labels: in the order of the outputs; all of the classifier's own among them.
        before: the language model of the classifier's words, as a loaded bundle.
        after: the same, once it has learned more, with more words perhaps.
        share: of what it learned that is added, from 0 to 1.

    Raises:
        BundleError: a bundle cannot be trusted.
    """
    bundle = load_bundle(folder, "classifier")
    model = build_classifier(bundle)
    load_weights(bundle, model)
    state, fresh = {name: each.clone() for name, each in model.state_dict().items()}, {}
    is_new, grows = find_new(after.vocab, bundle.vocab), after.vocab != bundle.vocab
    was, now = (_encoder_of(each).state_dict() for each in (before, after))
    for name, learned in now.items():
        own, rows = f"{ENCODER}{name}", None
        of_before = was[name]
        if grows and name in EMBEDDINGS:
            rows, fresh[own] = is_new, is_new
            state[own] = grow_rows(state[own], after.vocab, bundle.vocab)
            of_before = grow_rows(of_before, after.vocab, before.vocab)
        # What is left of a pruned classifier has other shapes than its language model.
        if not learned.is_floating_point() or learned.shape != state[own].shape:
            continue
        moved = (learned - of_before) * share
        if rows is not None:
            moved[rows] = (learned - of_before)[rows]
        state[own] = state[own] + moved
    if list(labels) != bundle.labels:
        for name in _outputs_of(model):
            fresh[name] = find_new(labels, bundle.labels)
            state[name] = grow_rows(state[name], labels, bundle.labels)
    return Grown(bundle.shape, state, fresh)


def _encoder_of(bundle: Bundle) -> nn.Module:
    """The encoder of a language model."""
    if isinstance(bundle.shape, TransformerShape):
        return transformer.load_language_model(bundle).encoder
    return awd_lstm.load_language_model(bundle)[0]


def _outputs_of(model: nn.Module) -> list[str]:
    """The parameters of a classifier that have a row per label: those of its last layer."""
    name = [name for name, each in model.named_modules() if isinstance(each, nn.Linear)][-1]
    return [f"{name}.{part}" for part, _ in model.get_submodule(name).named_parameters()]
