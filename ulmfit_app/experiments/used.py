"""Settings that a run would ignore, which are refused instead.

Without torch, so that the command line can refuse them before it loads anything.
"""

import shlex
from dataclasses import fields
from operator import attrgetter

from ulmfit_app.config import CHINESE, Settings
from ulmfit_app.errors import SettingError
from ulmfit_app.experiments.fixed import (
    ALSO_FROM_RANDOM,
    OF_TRANSFORMERS_ALONE,
    SET_BY,
    require_transformer,
)
from ulmfit_app.languages import has_subwords
from ulmfit_app.models.hub import is_transformer

# Of fine-tuning alone: pretraining has one schedule and one rate for all layers.
NOT_FOR_PRETRAINING = ("lm.schedule", "lm.decay", "lm.frozen_lr", "lm.test_texts", "lm.lr_find")
# What a language model of no epochs has no use for. Its vocabulary needs the others.
OF_LM_TRAINING = (
    *("lm.lr", "lm.frozen_lr", "lm.random_lr", "lm.transformer_lr", "lm.decay", "lm.schedule"),
    *("lm.drop_mult", "lm.weight_decay", "lm.softmax", "lm.grad_clip"),
)
# Verbs that score answers, which thresholds or costs decide.
OF_ANSWERS = ("run", "distill", "search", "labels", "augment", "cross")
# What each method of augmentation reads.
READ_BY_METHOD = {
    "none": (),
    "eda": ("copies", "share", "synonyms"),
    "lm": ("copies", "share"),
    "translate": ("command",),
    "mix": (),
}
# What belongs to AWD-LSTM, and why a transformer has no use for it.
_RATE = "is an AWD-LSTM's; a transformer's rate is --lm.transformer-lr."
_OWN = "is an AWD-LSTM's; a transformer has its own"
NOT_FOR_TRANSFORMERS = {
    **dict.fromkeys(("lm.lr", "lm.frozen_lr", "lm.random_lr"), _RATE),
    **dict.fromkeys(("tokens.max_vocab", "tokens.min_freq"), f"{_OWN} tokens."),
    **dict.fromkeys(("model.emb_sz", "model.n_hid", "model.n_layers"), f"{_OWN} shape."),
    "lm.drop_mult": f"{_OWN} dropouts.",
    "lm.bptt": f"{_OWN} window.",
    "lm.softmax": f"{_OWN} softmax, which is exact.",
    "classifier.recompute": "is an AWD-LSTM's; a transformer keeps a part of long texts anyway.",
}
_LAST = "--classifier.plan last trains the last one alone. Leave it out."
NOT_FOR_PLAN_LAST = {
    "classifier.decay": f"is between layer groups, and {_LAST}",
    "classifier.recompute": f"is for layer groups of the encoder, and {_LAST}",
}
OF_TRANSFORMERS = (
    "lm.transformer_lr",
    "classifier.groups",
    "classifier.pooling",
    "classifier.adapter",
)


def flag_of(name: str) -> str:
    """The option of a setting.

    >>> [flag_of(name) for name in ("lm.drop_mult", "lm.pretrained", "data.max_train")]
    ['--lm.drop-mult', '--pretrained', '--max-train']
    """
    section, _, field = name.partition(".")
    is_bare = section == "data" or name in ("lm.pretrained", "classifier.costs")
    return f"--{field if is_bare else name}".replace("_", "-")


def check_used(settings: Settings, preset: Settings, verb: str) -> None:
    """Refuse a setting that would be ignored.

    Args:
        settings: what the command line gives.
        preset: where its defaults come from; a preset's own value is nobody's request.
        verb: run, pretrain, or an experiment's name.

    Raises:
        SettingError: names the option and says why it is not used; or the experiment is one of
            transformers, and the start is none.
    """
    if verb in OF_TRANSFORMERS_ALONE:
        require_transformer(settings, verb)
    for name, why in find_unused(settings, verb).items():
        if attrgetter(name)(settings) != attrgetter(name)(preset):
            raise SettingError(f"{flag_of(name)} {why}")


def find_unused(settings: Settings, verb: str) -> dict[str, str]:
    """The settings that a verb does not use.

    Args:
        settings: of its runs.
        verb: run, pretrain, search, or an experiment's name.

    Returns:
        Of each the name, as lm.drop_mult, and the reason, as the end of a sentence.
    """
    start, found, of_transformer = settings.lm.pretrained, {}, {}
    if is_transformer(start):
        of_transformer = _unused_from_transformer(start, verb)
    else:
        why = f"is for transformers, and the start here, {start}, is an AWD-LSTM. Leave it out."
        found |= dict.fromkeys(OF_TRANSFORMERS, why)
    if start == "none" and verb != "starts":
        why = (
            "is for a pretrained start, which --pretrained names, and this one is random weights. "
            "Leave it out; their rate is --lm.random-lr"
        )
        found |= dict.fromkeys(("lm.lr", "lm.frozen_lr"), why)
    elif verb not in ALSO_FROM_RANDOM and not is_transformer(start):
        only_random = f"is for random weights (--pretrained none), and the start here is {start}"
        found["lm.random_lr"] = f"{only_random}. Leave it out; the rate of such a start is --lm.lr"
        shape = f"{only_random}, which brings its own shape. Leave it out."
        found |= {f"model.{f.name}": shape for f in fields(settings.model)}
    if has_subwords(settings.tokens.language):
        why = f"is for words, and texts in {settings.tokens.language} are read in subwords. "
        found["tokens.min_freq"] = f"{why}Leave it out."
    if start == CHINESE and verb not in ALSO_FROM_RANDOM:
        why = f"is for tokens that are learned, and the start, {start}, brings its own. "
        found |= dict.fromkeys(("tokens.max_vocab", "tokens.min_freq"), f"{why}Leave it out.")
    if verb == "pretrain":
        why = "is for fine-tuning, and pretraining does not use it. Leave it out."
        found |= dict.fromkeys(NOT_FOR_PRETRAINING, why)
    elif not settings.lm.epochs:
        why = "is for training the language model, which --lm.epochs 0 leaves out. Leave it out."
        found |= dict.fromkeys(OF_LM_TRAINING, why)
    if verb not in (*OF_ANSWERS, "pretrain"):
        why = f"decides on answers, and {verb} compares the likeliest labels. Leave it out."
        found |= dict.fromkeys(("classifier.thresholds", "classifier.costs"), why)
    if verb not in ("run", "distill", "pretrain", "search"):
        why = f"is for a run's report, and {verb} compares the likeliest labels. Leave it out."
        found["classifier.equal_recall"] = why
        if verb != "folds" and settings.classifier.balance != "groups":
            found["data.groups"] = f"is for a run's report, and {verb} has none. Leave it out."
    if verb != "augment":
        found |= _unused_augmentation(settings.augment.method)
    if settings.classifier.plan == "last":
        found |= NOT_FOR_PLAN_LAST
    data = settings.data
    if data.folds is None:
        found["data.fold"] = "is the number of one of --folds, which says how many. Give it, too."
    elif verb in ("run", "distill"):
        why = "is not used with --folds, one of which is validated on. Leave one of the two out."
        found["data.valid_share"] = why
    why = f"is what {verb} compares, or fixes so that the rest can be compared. Leave it out."
    return found | dict.fromkeys(SET_BY.get(verb, ()), why) | of_transformer


def _unused_augmentation(method: str) -> dict[str, str]:
    """The settings of augmentation that a method does not use."""
    found = {}
    for name in {name: None for read in READ_BY_METHOD.values() for name in read}:
        if name not in READ_BY_METHOD[method]:
            users = [each for each, read in READ_BY_METHOD.items() if name in read]
            found[f"augment.{name}"] = (
                f"is for --augment.method {' or '.join(users)}, and the method here is {method}. "
                "Leave it out."
            )
    return found


def _unused_from_transformer(start: str, verb: str) -> dict[str, str]:
    """The settings that a verb does not use because its start is a transformer."""
    found = {name: f"{why} Leave it out." for name, why in NOT_FOR_TRANSFORMERS.items()}
    found["bidirectional"] = (
        f"is for AWD-LSTMs: the transformer {start} knows texts in one direction alone. Leave it "
        "out."
    )
    if verb == "pretrain":
        found["lm.pretrained"] = (
            f"names a transformer, {start}, and stage one is for AWD-LSTMs: transformers come "
            "pretrained. Go on with: python -m ulmfit_app.run DATA --pretrained "
            f"{shlex.quote(start)}"
        )
    if verb == "starts":
        found["lm.pretrained"] = (
            f"names a transformer, {start}, and starts compares AWD-LSTMs that have read more and "
            "more text, which --from names. Leave it out."
        )
    return found
