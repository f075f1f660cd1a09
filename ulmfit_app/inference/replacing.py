"""Words that language models put in the place of others (Kobayashi 2018, "Contextual Augmentation:
Data Augmentation by Words with Paradigmatic Relations", section 3).

A word is left out, and proposed are the words that both a forward language model expects after
what stands before, and a backward one before what stands behind: those of the largest product of
probabilities. Kobayashi's model is one of both directions, and knows the text's label too; ours do
not, so that a word may be proposed that changes it.

A recurrent model's state before a word has not read it: one reading of a text in each direction
serves all of its words.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_scripts.files import progress
from ulmfit_app.config import Precision
from ulmfit_app.data.augmentation import WORD, count_changes, generator_for, in_case_of
from ulmfit_app.errors import BundleError
from ulmfit_app.inference.language_model import TrainedModel, load
from ulmfit_app.models.bundle import require_direction
from ulmfit_app.text.rules import BOS, PAD_ID, SPECIALS, UNK_ID
from ulmfit_app.text.tracing import Span
from ulmfit_app.text.vocabulary import word_to_id

CANDIDATES = 10  # of the most probable words, one of which is drawn by its probability
TOKENS_PER_STEP = 4_096  # of a batch of texts
WORDS_PER_STEP = 256  # for each of which there is a float for every word of the vocabulary


@dataclass(frozen=True)
class Place:
    """A word of a text that another may take the place of.

    Args:
        token: its number among the text's tokens.
        start, stop: its characters.
    """

    token: int
    start: int
    stop: int


class Proposer:
    """Proposes words that a forward and a backward language model agree on.

    Args:
        forward, backward: folders of their bundles, which have one vocabulary.
        stop_words: neither replaced nor proposed; in lower case.
        precision: of all weights.

    Raises:
        BundleError: the models cannot be trusted, read in the wrong direction, or know other
            words.
        SettingError: as `inference.language_model.load` does.
    """

    def __init__(
        self,
        forward: Path,
        backward: Path,
        stop_words: Collection[str],
        precision: Precision = "auto",
    ) -> None:
        self.models = {"forward": load(forward, precision), "backward": load(backward, precision)}
        for (direction, model), folder in zip(
            self.models.items(), (forward, backward), strict=True
        ):
            require_direction(model.bundle.direction, direction, f"The language model in {folder}")
        ours, theirs = (model.bundle for model in self.models.values())
        if ours.vocab_hash != theirs.vocab_hash:
            raise BundleError(
                f"The language models in {forward} and {backward} know different words, and can "
                "agree on none. Give two that were trained with one vocabulary, as a run's with "
                "--bidirectional are."
            )
        self.vocab, self.ids_of = ours.vocab, word_to_id(ours.vocab)
        self.tokenizer, self.stop_words = self.models["forward"].tokenizer, stop_words
        proposed = [
            word.isalpha() and len(word) > 1 and word not in (*SPECIALS, *stop_words)
            for word in self.vocab
        ]
        self._proposed = torch.tensor(proposed)

    def propose(
        self, texts: Sequence[Sequence[str]], asked: Sequence[Sequence[int]]
    ) -> list[dict[int, tuple[list[str], np.ndarray]]]:
        """What could stand in the place of words.

        Args:
            texts: their tokens, xxbos first, [n].
            asked: numbers of tokens of each, [n].

        Returns:
            For each text: number of a token -> the CANDIDATES words that both models find most
            probable there, and their probabilities, which sum to 1. The word itself, stop words
            and what is no word are left out.
        """
        ids = [[self.ids_of.get(token, UNK_ID) for token in each] for each in texts]
        order = sorted((i for i, places in enumerate(asked) if places), key=lambda i: len(ids[i]))
        found: list[dict[int, tuple[list[str], np.ndarray]]] = [{} for _ in texts]
        with progress(total=len(order), description="Replacing words", unit=" texts") as bar:
            for batch in _batches(order, ids):
                pairs = [(i, place) for i in batch for place in asked[i]]
                states = [self._read(name, [ids[i] for i in batch]) for name in self.models]
                row_of = {i: row for row, i in enumerate(batch)}
                for start in range(0, len(pairs), WORDS_PER_STEP):
                    some = pairs[start : start + WORDS_PER_STEP]
                    rows = [(row_of[i], place, len(ids[i])) for i, place in some]
                    best = self._agree(states, rows, [ids[i][place] for i, place in some])
                    for (i, place), (p, which) in zip(some, best, strict=True):
                        found[i][place] = [self.vocab[word] for word in which], p
                bar.update(len(batch))
        return found

    @torch.no_grad()
    def _read(self, direction: str, texts: list[list[int]]) -> Tensor:
        """The model's states [n, tokens of the longest, emb_sz], of texts read in a direction."""
        if direction == "backward":  # behind a text's end stands the next one's beginning
            texts = [[self.ids_of[BOS], *ids[:0:-1]] for ids in texts]
        longest = max(map(len, texts))
        model: TrainedModel = self.models[direction]
        padded = torch.tensor([[*ids, *[PAD_ID] * (longest - len(ids))] for ids in texts])
        model.model.reset()
        return model.model[0](padded.to(next(model.model.parameters()).device))

    @torch.no_grad()
    def _agree(
        self, states: list[Tensor], rows: list[tuple[int, int, int]], own: list[int]
    ) -> list[tuple[np.ndarray, list[int]]]:
        """Of each word the probabilities and ids of those of the largest products.

        rows: for each word the text's row, the token's number, and how many tokens there are. own:
        the words' ids.
        """
        row, place, length = torch.tensor(rows).T
        total = 0
        # The state before a word: of the token before it, in the direction that is read.
        for model, of_model, before in zip(
            self.models.values(), states, (place - 1, length - 1 - place), strict=True
        ):
            logits = model.model[1].decoder(of_model[row, before])
            total = total + logits.float().log_softmax(1)
        total[:, ~self._proposed.to(total.device)] = -torch.inf
        total[torch.arange(len(own)), torch.tensor(own)] = -torch.inf
        best, words = total.double().topk(min(CANDIDATES, total.shape[1]), dim=1)
        # A small vocabulary may have fewer, or none.
        logs = [each[each > -torch.inf] for each in best.cpu()]
        probabilities = [each.softmax(0).numpy() for each in logs]
        return [(p, ids[: len(p)]) for p, ids in zip(probabilities, words.tolist(), strict=True)]


class Replacer(Proposer):
    """Puts words in the place of others that a forward and a backward language model agree on."""

    def replace(
        self, texts: Sequence[str], rows: Sequence[int], copies: int, share: float, seed: int
    ) -> list[list[str]]:
        """Copies of texts with other words in the place of some.

        Args:
            texts: as they were typed, [n].
            rows: of them in their table, [n].
            copies: of each text, at most.
            share: of a text's words that change; one at least.
            seed: of the run.

        Returns:
            Of each text its copies, [n]; no two alike, and none like the text.
        """
        spans = [self.tokenizer.spans(text) for text in texts]
        places = [self.find_places(*each) for each in zip(texts, spans, strict=True)]
        n_words_of = [len(WORD.findall(text)) for text in texts]
        drawn = [
            [
                _draw(of_text, count_changes(share, n_words), generator_for(seed, row, copy))
                for copy in range(copies if of_text else 0)
            ]
            for of_text, n_words, row in zip(places, n_words_of, rows, strict=True)
        ]
        asked = [sorted({place.token for copy in each for place in copy}) for each in drawn]
        proposals = self.propose([[span.token for span in each] for each in spans], asked)
        return [
            self._write(text, of_text, proposals[i], (seed, rows[i]))
            for i, (text, of_text) in enumerate(zip(texts, drawn, strict=True))
        ]

    def find_places(self, text: str, spans: Sequence[Span]) -> list[Place]:
        """The words of a text that may be replaced: those that the models know whole.

        Args:
            text: as it was typed.
            spans: its tokens.
        """
        return [
            Place(i, start, stop)
            for i, (token, start, stop) in enumerate(spans)
            if token == text[start:stop].lower()
            and token.isalpha()
            and token not in self.stop_words
            and self.ids_of.get(token, UNK_ID) != UNK_ID
        ]

    def _write(
        self,
        text: str,
        drawn: list[list[Place]],
        proposals: dict[int, tuple[list[str], np.ndarray]],
        seed: tuple[int, int],
    ) -> list[str]:
        made = []
        for number, places in enumerate(drawn):
            generator, new = generator_for(*seed, number + len(drawn)), text
            for place in reversed(places):
                words, probabilities = proposals[place.token]
                if not words:
                    continue
                word = words[generator.choice(len(words), p=probabilities)]
                old = text[place.start : place.stop]
                new = new[: place.start] + in_case_of(word, old) + new[place.stop :]
            made.append(new)
        return [new for new in dict.fromkeys(made) if new != text]


def _draw(places: list[Place], n: int, generator: np.random.Generator) -> list[Place]:
    return [places[i] for i in sorted(generator.permutation(len(places))[:n])]


def _batches(order: list[int], ids: list[list[int]]) -> list[list[int]]:
    """Texts of about one length together, up to TOKENS_PER_STEP tokens with their padding."""
    batches: list[list[int]] = []
    for i in order:
        if not batches or (len(batches[-1]) + 1) * len(ids[i]) > TOKENS_PER_STEP:
            batches.append([])
        batches[-1].append(i)
    return batches
