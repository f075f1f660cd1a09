"""What a language model writes: texts that go on from a prompt.

The model's hidden state stands for all that it has read, so one more token costs the same however
long the text is.
"""

import logging

import torch
from torch import Tensor
from torch.nn import functional as F

from ulmfit_app.config import SamplingSettings
from ulmfit_app.inference.language_model import TrainedModel
from ulmfit_app.inference.sampling import FORBIDDEN, NGrams, filter_logits
from ulmfit_app.models.reader import Reader
from ulmfit_app.text.detokenizer import detokenize
from ulmfit_app.text.rules import BOS, FAKE, SPECIALS, TK_MAJ, TK_REP, TK_UP, TK_WREP, UNK_ID
from ulmfit_app.text.vocabulary import word_to_id

log = logging.getLogger(__name__)

NEVER_WRITTEN = {*SPECIALS, FAKE} - {TK_MAJ, TK_UP, TK_REP, TK_WREP}


def _next_logits(model: Reader, ids: Tensor) -> Tensor:
    """Logits [rows, words], on the CPU, of what follows ids [rows, tokens].

    The state of `model` moves on.
    """
    prediction = model(ids.to(next(model.parameters()).device))[0]
    return F.linear(prediction.hidden[:, -1], prediction.weight, prediction.bias).double().cpu()


def _choose(logits: Tensor, settings: SamplingSettings, generator: torch.Generator) -> Tensor:
    """Ids [rows] drawn from logits [rows, words]."""
    if settings.temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(filter_logits(logits, settings).softmax(-1), 1, generator=generator)[
        :, 0
    ]


@torch.no_grad()
def continue_ids(
    model: Reader, ids: list[int], never: Tensor, settings: SamplingSettings
) -> Tensor:
    """What a language model writes behind a prompt.

    Args:
        model: to read and write with.
        ids: of the prompt, one or more.
        never: the ids of words that it may not write.
        settings: how words are chosen.

    Returns:
        Ids [samples, words].
    """
    generator = torch.Generator()
    if settings.seed is None:
        generator.seed()
    else:
        generator.manual_seed(settings.seed)
    n, rows = settings.no_repeat_ngrams, settings.samples
    ngrams = [NGrams(n, ids) for _ in range(rows)] if n else []
    model.reset()
    logits = _next_logits(model, torch.tensor([ids])).repeat(rows, 1)
    model[0].repeat_state(rows)
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
        if len(written) == settings.words:
            return torch.stack(written, 1)
        logits = _next_logits(model, chosen[:, None])


def generate(trained: TrainedModel, prompt: str, settings: SamplingSettings) -> list[str]:
    """Texts that begin with the prompt, or with a backward model end with it.

    The model starts as at the beginning of a text, or the end where it reads backward, even when
    the prompt is empty. It never writes unknown words or the end of a text.

    Args:
        trained: the model.
        prompt: a text, or "".
        settings: how words are chosen.

    Returns:
        One text per sample.

    Raises:
        SettingError: as `Tokenizer` does.
    """
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
    for row in continue_ids(trained.model, read, never, settings).tolist():
        written = [bundle.vocab[i] for i in row]
        if backward:
            texts.append(detokenize([*written[::-1], *tokens], bundle.language))
        else:
            texts.append(detokenize(written, bundle.language, start=prompt))
    return texts
