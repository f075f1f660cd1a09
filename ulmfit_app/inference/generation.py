"""What a language model writes: texts that go on from a prompt.

One loop for all architectures. Of an AWD-LSTM the hidden state stands for all that it has read, of
a transformer the keys and values do; so nothing is read twice.
"""

import logging
from collections.abc import Sequence
from itertools import takewhile
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ulmfit_app.inference.causal import CacheWriter, CausalModel
from ulmfit_app.inference.language_model import TrainedModel
from ulmfit_app.inference.sampling import FORBIDDEN, NGrams, filter_logits
from ulmfit_app.models.reader import Reader
from ulmfit_app.sampling_settings import SamplingSettings
from ulmfit_app.text.detokenizer import detokenize
from ulmfit_app.text.rules import BOS, FAKE, SPECIALS, TK_MAJ, TK_REP, TK_UP, TK_WREP, UNK_ID
from ulmfit_app.text.vocabulary import word_to_id

log = logging.getLogger(__name__)

NEVER_WRITTEN = {*SPECIALS, FAKE} - {TK_MAJ, TK_UP, TK_REP, TK_WREP}


class Writer(Protocol):
    """A language model that goes on from what it has read."""

    def begin(self, ids: list[int], rows: int) -> Tensor:
        """Read a prompt, once for so many texts.

        Args:
            ids: of the prompt, one or more.
            rows: texts that are to go on from it.

        Returns:
            Logits of what follows, [rows, words], in double precision on the CPU.
        """

    def next(self, ids: Tensor) -> Tensor:
        """Read on by one token for each text, ids [rows]; logits as those of `begin`."""


class StateWriter:
    """An AWD-LSTM that goes on from its hidden state."""

    def __init__(self, model: Reader) -> None:
        self._model = model

    def begin(self, ids: list[int], rows: int) -> Tensor:
        """Read a prompt, once for so many texts; as `Writer` says."""
        self._model.reset()
        logits = self._read(torch.tensor([ids]))
        self._model[0].repeat_state(rows)
        return logits.repeat(rows, 1)

    def next(self, ids: Tensor) -> Tensor:
        """Read on by one token for each text; as `Writer` says."""
        return self._read(ids[:, None])

    def _read(self, ids: Tensor) -> Tensor:
        prediction = self._model(ids.to(next(self._model.parameters()).device))[0]
        logits = F.linear(prediction.hidden[:, -1], prediction.weight, prediction.bias)
        return logits.double().cpu()


def _choose(logits: Tensor, settings: SamplingSettings, generator: torch.Generator) -> Tensor:
    """Ids [rows] drawn from logits [rows, words]."""
    if settings.temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(filter_logits(logits, settings).softmax(-1), 1, generator=generator)[
        :, 0
    ]


@torch.no_grad()
def continue_ids(
    writer: Writer,
    ids: list[int],
    never: Tensor,
    settings: SamplingSettings,
    ends: Sequence[int] = (),
) -> list[list[int]]:
    """What a language model writes behind a prompt.

    Args:
        writer: to read and write with.
        ids: of the prompt, one or more.
        never: the ids of words that it may not write.
        settings: how words are chosen.
        ends: the ids of tokens that end a text.

    Returns:
        Ids [samples][words], fewer words where a text ended; the token that ended it is left out.
    """
    generator = torch.Generator()
    if settings.seed is None:
        generator.seed()
    else:
        generator.manual_seed(settings.seed)
    n, rows = settings.no_repeat_ngrams, settings.samples
    ngrams = [NGrams(n, ids) for _ in range(rows)] if n else []
    logits, ended = writer.begin(ids, rows), torch.zeros(rows, dtype=torch.bool)
    written = []
    while True:
        logits[:, never] = FORBIDDEN
        for row, of_row in enumerate(ngrams):
            fresh = logits[row].clone()
            fresh[list(of_row.find_repeats())] = FORBIDDEN
            # Where every word would repeat something, repeating is all that is left.
            if fresh.max() > FORBIDDEN:
                logits[row] = fresh
        chosen = _choose(logits, settings, generator)
        for of_row, token in zip(ngrams, chosen.tolist(), strict=False):
            of_row.add(token)
        written.append(chosen)
        ended |= torch.isin(chosen, torch.tensor(ends, dtype=chosen.dtype))
        if len(written) == settings.words or ended.all():
            break
        logits = writer.next(chosen)
    # Texts that ended were written on beside the others.
    rows_of_ids = torch.stack(written, 1).tolist()
    return [list(takewhile(lambda i: i not in ends, row)) for row in rows_of_ids]


def generate(
    trained: TrainedModel | CausalModel, prompt: str, settings: SamplingSettings
) -> list[str]:
    """Texts that begin with the prompt, or with a backward model end with it.

    An AWD-LSTM starts as at the beginning of a text, or the end where it reads backward, even when
    the prompt is empty. It never writes unknown words or the end of a text. A transformer reads
    the prompt as its own tokenizer gives it, or where that is nothing, the token that begins a
    text; a text of it ends before --words where it writes the token that ends a text.

    Args:
        trained: the model.
        prompt: a text, or "".
        settings: how words are chosen.

    Returns:
        One text per sample.

    Raises:
        SettingError: as `Tokenizer` does.
    """
    if isinstance(trained, CausalModel):
        return _continue_by_transformer(trained, prompt, settings)
    return _continue_by_lstm(trained, prompt, settings)


def _continue_by_transformer(
    trained: CausalModel, prompt: str, settings: SamplingSettings
) -> list[str]:
    read = trained.to_ids([prompt])[0] or [trained.facts.begin_id]
    positions, n = trained.positions, len(read) + settings.words
    if positions is not None and n > positions:
        log.info(
            "The prompt's %d tokens and %d to write are more than the model's %d positions. Each "
            "time they are full, it goes on from the last %d tokens alone.",
            *(len(read), settings.words, positions, positions // 2),
        )
    decode, vocab = trained.tokenizer.decode, trained.tokenizer.vocab
    # Some models have more logits than tokens, for sizes that multiply fast.
    n_logits = trained.model.config.vocab_size
    unnamed = [i for i in range(n_logits) if i >= len(vocab) or not vocab[i]]
    never = torch.tensor(unnamed, dtype=torch.long)
    writer, start = CacheWriter(trained), decode(read)
    rows = continue_ids(writer, read, never, settings, trained.ends)
    # Behind the prompt: SentencePiece drops the space of a text's first word.
    return [prompt + decode([*read, *row])[len(start) :] for row in rows]


def _continue_by_lstm(trained: TrainedModel, prompt: str, settings: SamplingSettings) -> list[str]:
    if trained.bundle.tokenizer:
        return _continue_in_subwords(trained, prompt, settings)
    bundle, ids_of = trained.bundle, word_to_id(trained.bundle.vocab)
    backward = bundle.direction == "backward"
    tokens = trained.tokenizer(prompt)[1:]
    unknown = sorted({token for token in tokens if token not in ids_of})
    if unknown:
        log.info(
            "The model does not know, and reads as %s: %s", SPECIALS[UNK_ID], ", ".join(unknown)
        )
    # A backward model reads xxbos last in a text, so that it stands before the next one in both
    # directions.
    read = [ids_of.get(token, UNK_ID) for token in [BOS, *(tokens[::-1] if backward else tokens)]]
    never = torch.tensor([i for i, word in enumerate(bundle.vocab) if word in NEVER_WRITTEN])
    texts = []
    for row in continue_ids(StateWriter(trained.model), read, never, settings):
        written = [bundle.vocab[i] for i in row]
        if backward:
            texts.append(detokenize([*written[::-1], *tokens], bundle.language))
        else:
            texts.append(detokenize(written, bundle.language, start=prompt))
    return texts


def _continue_in_subwords(
    trained: TrainedModel, prompt: str, settings: SamplingSettings
) -> list[str]:
    bundle, decode = trained.bundle, trained.tokenizer.decode
    begin, *ids = trained.tokenizer.ids([prompt])[0].tolist()
    never = torch.tensor(sorted(trained.tokenizer.specials - {SPECIALS.index(TK_REP)}))
    writer, backward = StateWriter(trained.model), bundle.direction == "backward"
    read = [begin, *(ids[::-1] if backward else ids)]
    rows = continue_ids(writer, read, never, settings)
    # The prompt stays as it was typed, whatever it was converted to before it was read.
    return [decode(row[::-1]) + prompt if backward else prompt + decode(row) for row in rows]
