"""Every setting of a run: one frozen dataclass a stage.

An unknown field is an error, not a silence; the presets are in presets.py. Where a number comes
from is said beside it: "paper" is Howard and Ruder 2018 (ULMFiT), "AWD" is Merity et al. 2017,
"fastai" the library's default.
"""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, Suppress, arg
from tyro.constructors import PrimitiveConstructorSpec

from ulmfit_app.errors import SettingError
from ulmfit_app.languages import is_chinese

MODELS = Path(__file__).parent / "weights"  # language models that come with the package
GENERAL, REVIEWS, CHINESE = "en-small", "en-reviews-small", "zh-tw-small"
Direction = Literal["forward", "backward"]  # in which a model reads a text
Schedule = Literal["one-cycle", "slanted-triangular", "cosine", "constant"]
# csv: RFC 4180; literal: a quote is a character like any other, as in many tab-separated files
Quotes = Literal["csv", "literal"]
Precision = Literal["auto", "fp16", "bf16", "fp32"]
PredictorPrecision = Literal[Precision, "int8"]
PlanName = Literal[
    "auto",
    "published",
    "weak-start",
    "full",
    "full-discr",
    "last",
    "chain-thaw",
    "gradual",
    "gradual-discr",
    "contrastive",
]
Pooling = Literal["mean", "first", "last", "concat"]
# OpenCC's names: s Simplified, t Traditional, tw and hk the characters of Taiwan and Hong Kong, p
# with their words, as 軟體 for 软件
Conversion = Literal["s2twp", "s2tw", "s2hk", "s2t", "tw2sp", "t2s"]
TO_SIMPLIFIED = ("tw2sp", "t2s")
AdapterName = Literal["lora", "prompt", "ia3"]
Balance = Literal["none", "weights", "focal", "oversample", "undersample", "groups"]
# A name or nothing. On the command line every word is a name, None too, which a class or a column
# may be called.
Name = Annotated[
    str | None,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="STR",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: value is None or isinstance(value, str),
        str_from_instance=lambda value: [str(value)],
    ),
]
SECTIONS = ("data", "tokens", "model", "lm", "classifier", "distillation", "augment", "update")
MAY_BE_ZERO = (
    *("lm.drop_mult", "lm.weight_decay", "lm.epochs", "classifier.weight_decay"),
    "classifier.drop_mult",
    *(f"distillation.{name}" for name in ("hard_weight", "states_weight", "confidence")),
    *("distillation.pruned", "update.replay", "update.pull", "update.task_vector"),
)
# fastai's, of AWD-LSTM
LARGEST_DROPOUT = {"lm": 0.25, "classifier": 0.5}


@dataclass(frozen=True)
class DataSettings:
    """Which texts, and how they are split."""

    # imdb, trec6, banking77, hatespeech, hatecheck, goemotions, joke, pcweb, pcnews, hotel or
    # shopping; or a path: a CSV, TSV, JSON or Parquet file, a .txt with label<TAB>text in each
    # line, or a folder of class folders
    source: Positional[str] = "imdb"
    # an archive, folder or file that holds a data set known by name; None: the cache, then the
    # download
    data: Path | None = None
    # column of the texts in a file of your own; None: guessed where there is no doubt
    text: Name = None
    label: Name = None  # column of the labels, likewise
    split: Name = None  # column that says train, valid or test; None: splits are made
    # a text may have several labels, or none; a cell of the column of labels is a list, as ["a",
    # "b"], or has a separator between them
    multilabel: bool = False
    separator: Name = None  # between the labels in a cell; None: found where there is no doubt
    # columns of 1 and 0, in the place of --label: one for each of several labels
    label_columns: tuple[str, ...] = ()
    # texts that have none of several labels; auto: an empty list, or 0 in all columns, is an
    # answer and kept, and an empty cell is missing and dropped
    without_label: Literal["auto", "keep", "drop"] = "auto"
    # columns of whom a text is from or about, with spaces between: the report compares the groups
    # in each
    groups: tuple[str, ...] = ()
    # column of dates or times: the latest texts are tested on, and the latest of the others
    # validated on, instead of texts drawn at random
    time: Name = None
    encoding: str = "utf-8"  # of the file
    # of a CSV or TSV; literal: a quote is a character like any other, as in many TSV files
    quotes: Quotes = "csv"
    # of the training rows; everything is selected on them, never on the test split
    valid_share: float = 0.1
    # of the training rows; one of them is validated on, instead of valid_share. With --time they
    # are periods, and what comes before one is learned
    folds: int | None = None
    fold: int = 1  # which one, from 1 on
    test_share: float = 0.2  # of all rows, where the data has no test split
    # keep so many labels of train and valid, a fifth of them for validation; the other texts of
    # both are unlabelled. None: all
    max_labels: int | None = None
    max_train: int | None = None  # rows, a stratified and seeded subset; None: all
    max_valid: int | None = None  # rows
    max_test: int | None = None  # rows
    max_unlabelled: int | None = None  # rows


@dataclass(frozen=True)
class TokenSettings:
    """How texts become ids."""

    # a spaCy language code, with or without a region, as zh-tw; where it is left at en, texts in a
    # script without spaces between words tell theirs
    language: str = "en"
    max_vocab: int = 60_000  # tokens; fastai and the paper's WikiText-103 model
    min_freq: int = 3  # a rarer token is xxunk; fastai
    # convert Chinese texts before anything reads them, also those that are predicted later; s2twp:
    # Simplified to Traditional with the words of Taiwan. None: they are read as they are
    opencc: Conversion | None = None


@dataclass(frozen=True)
class ModelSettings:
    """Shape of the AWD-LSTM; a pretrained model brings its own."""

    emb_sz: int = 400  # AWD
    n_hid: int = 1152  # fastai; AWD and the paper have 1150
    n_layers: int = 3  # AWD

    def count_groups(self, settings: "ClassifierSettings") -> int:
        """Layer groups of a classifier: the embeddings, each LSTM layer, the head."""
        return self.n_layers + 2

    def describe(self) -> str:
        """Architecture and sizes, for people."""
        return f"AWD-LSTM {self.emb_sz}/{self.n_hid}/{self.n_layers}"


@dataclass(frozen=True)
class LanguageModelSettings:
    """Fine-tuning the language model (paper, section 3.2)."""

    # en-small, en-reviews-small or zh-tw-small, which come with the package; auto: the second for
    # imdb, the third for Chinese, else the first; wt103; none; or a folder: fastai's .pth + .pkl,
    # a bundle of ours, or a run's. Transformers: minilm, a folder with safetensors, or a name of
    # the Hugging Face hub
    pretrained: Annotated[str, arg(prefix_name=False)] = "wt103"
    # over everything but the validation part, after one with the encoder frozen if pretrained; 0:
    # the start as it is, not fine-tuned at all; fastai's IMDb
    epochs: int = 10
    # peak of that one, which is left out where max_tokens is enough for a single epoch only;
    # None: no such epoch; fastai's IMDb
    frozen_lr: float | None = 2e-2
    lr: float = 2e-3  # peak of the rest; fastai's IMDb
    # of the peak from a layer group to the one below, discriminative above 1; fastai's IMDb.
    # Paper: 2.6
    decay: float = 1.0
    schedule: Schedule = "one-cycle"  # of each phase
    # peak when the start is random weights, which can and must move faster
    random_lr: float = 4e-3
    transformer_lr: float = 5e-5  # peak when the start is a transformer; Devlin et al. 2019
    drop_mult: float = 1.0  # times AWD's dropouts
    weight_decay: float = 0.1  # fastai's IMDb
    batch_size: int = 64  # texts side by side; paper
    bptt: int = 72  # tokens per step; fastai. The paper has 70
    # over all words, or while training over a sample: faster, for pretraining on much text;
    # perplexity is always over all
    softmax: Literal["exact", "sampled"] = "exact"
    grad_clip: float | None = None  # largest norm of the gradient; None: not clipped
    # training tokens over all epochs: fewer epochs, then fewer texts, those of the classifier
    # first; None: no bound
    max_tokens: int | None = None
    # learn from the test split's texts too, without their labels, as fastai's tutorials do: the
    # report says so
    test_texts: bool = False
    lr_find: bool = False  # save the learning-rate finder's plot as lm/lr_find.png

    @property
    def splits(self) -> list[str]:
        """Whose texts the language model learns from, in this order where time is short."""
        return ["train", *(["test"] if self.test_texts else []), "unlabelled"]


@dataclass(frozen=True)
class ClassifierSettings:
    """Training the classifier on the fine-tuned encoder (paper, section 3.3)."""

    # recipes.py; auto, on a pretrained start: published, or full-discr as long as there is time,
    # where max_tokens bounds it; of a transformer: contrastive for few labels, else full; full to
    # gradual-discr: those of the paper's table 7
    plan: PlanName = "auto"
    # in all: the plan's last phase takes what the others leave; None: the plan's own
    epochs: int | None = None
    lr_mult: float = 1.0  # times the plan's rates
    # of the peak rate from a layer group to the one below, in all of the plan's phases; None: the
    # plan's own
    decay: float | None = None
    drop_mult: float | None = None  # times the classifier's dropouts; None: the plan's own
    schedule: Schedule = "one-cycle"  # of each phase
    batch_size: int = 64  # texts; paper. Fewer where labels are few: choosing.batch_size_for
    weight_decay: float = 0.01  # fastai
    grad_clip: float | None = None  # largest norm of the gradient; None: not clipped
    # training tokens over all epochs: fewer texts; None: no bound
    max_tokens: int | None = None
    # epochs without a better validation accuracy before a phase stops; None: never early
    patience: int | None = None
    # gradients reach back so many tokens of a text; all of its tokens are pooled; fastai: 20 x 72
    grad_tokens: int = 1_440
    # compute again in the backward pass, instead of keeping it, what that needs of all but a
    # batch's last tokens: the same results in a third of the memory, a third longer at most. auto:
    # of as many tokens as the memory is too short for
    recompute: Literal["auto", "yes", "no"] = "auto"
    # of a transformer's blocks, which are unfrozen together and have one rate
    groups: int = 4
    # of a transformer's states: their mean, the first or the last one, or ULMFiT's concatenation
    # of last, maximum and mean
    pooling: Pooling = "mean"
    # learn so little beside a transformer's weights, which stay as they are: low-rank updates (Hu
    # et al. 2021), a soft prompt (Lester et al. 2021), or factors (Liu et al. 2022)
    adapter: AdapterName | None = None
    # where classes are rare: weigh their texts more in the loss, or texts of low confidence
    # (focal; Lin et al. 2017), or learn from texts of rare classes several times, or from fewer of
    # the others. groups: weigh texts so that labels are as frequent in each of --groups (Kamiran
    # and Calders 2012)
    balance: Balance = "none"
    # which epoch is kept, by the validation part: of the best accuracy, macro F1, or, of several
    # labels, the mean over labels of average precision; auto: macro F1 with a balance, else
    # accuracy
    select_by: Literal["auto", "accuracy", "macro-f1", "average-precision"] = "auto"
    # what a label's probability must exceed, chosen on the validation part for the best F1; auto:
    # f1 of several labels, else none, which answers the most probable label
    thresholds: Literal["auto", "none", "f1"] = "auto"
    # a label whose recall is made equal in the groups of the first of --groups, by a threshold for
    # each, chosen on the validation part (Hardt et al. 2016): who a text is from or about then
    # decides its answer, which law or rules may forbid. None: one rule for all
    equal_recall: Name = None
    # a CSV of what each mistake costs: answers are those of the lowest expected cost. None: all
    # mistakes cost the same
    costs: Annotated[Path | None, arg(prefix_name=False)] = None


@dataclass(frozen=True)
class DistillationSettings:
    """Learning from the answers of trained runs, to labelled and unlabelled texts (Hinton et al.
    2015)."""

    # run folders, with spaces between; of several, the mean of their probabilities
    teachers: Annotated[tuple[str, ...], arg(name="teacher", prefix_name=False)] = ()
    # divides the logits of teacher and student, so that unlikely classes count; Hinton et al. 2015
    temperature: float = 2.0
    # of the labels in the loss, where a text has one, from 0 to 1; the teacher's answer has the
    # rest
    hard_weight: float = 0.1
    # of the teacher's pooled states, by their cosine to a linear map of the student's, beside the
    # loss of 1 that its answers have
    states_weight: float = 0.0
    # learn those unlabelled texts alone of which the teacher is surest, as many as have this mean
    # probability of their likeliest label; 0: all
    confidence: float = 0.0
    # begin with the teacher's own classifier without so large a share of its units; 0: with the
    # language model's encoder. Set by the verb prune
    pruned: Annotated[float, Suppress] = 0.0


@dataclass(frozen=True)
class AugmentationSettings:
    """More texts for the classifier to learn from, made of the labelled ones of train. Nothing is
    validated or tested on them."""

    # eda: synonyms, insertion, swap and deletion of words (Wei and Zou 2019); lm: words that a
    # forward and a backward language model put in their place (Kobayashi 2018); translate: there
    # and back, by --augment.command; mix: means of two texts' states (Guo et al. 2019)
    method: Literal["none", "eda", "lm", "translate", "mix"] = "none"
    copies: int = 1  # of each text; mix makes none
    share: float = 0.1  # of a text's words that change
    # of eda: from WordNet, or the nearest words in the language model's embedding
    synonyms: Literal["wordnet", "embedding"] = "wordnet"
    # that translates: reads texts, one a line, and writes as many, such as
    # "apertium -u eng-spa | apertium -u spa-eng"
    command: str | None = None

    @property
    def makes_texts(self) -> bool:
        """Whether the method makes texts, and so has a stage."""
        return self.method not in ("none", "mix")


@dataclass(frozen=True)
class UpdateSettings:
    """Going on from a finished run with new texts, without forgetting the old ones."""

    # folder of the run that is gone on from. Set by the verb update
    parent: Annotated[str, Suppress] = ""
    # old training texts that are learned again, for each new one
    replay: float = 0.5
    # of the weights towards those of the parent, times the rate, at each step (Li et al. 2018), in
    # the place of weight decay; 0: none
    pull: float = 0.0
    # of what the language model has learned since, that is added to the classifier's encoder, from
    # 0 to 1 (Ilharco et al. 2023)
    task_vector: float = 1.0
    epochs: int = 1  # of the classifier
    lr: float = 1e-3  # peak of its last layer group
    new_labels: bool = False  # let the new texts bring labels that the parent does not know


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on, versions and hashes apart."""

    data: DataSettings = field(default_factory=DataSettings)
    tokens: TokenSettings = field(default_factory=TokenSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    lm: LanguageModelSettings = field(default_factory=LanguageModelSettings)
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    augment: AugmentationSettings = field(default_factory=AugmentationSettings)
    update: UpdateSettings = field(default_factory=UpdateSettings)
    seed: int = 42
    # a forward and a backward model, and the mean of their probabilities; paper
    bidirectional: bool = False
    # of matrix products; auto: bf16 where the GPU or CPU has it, fp16 on other GPUs, else fp32
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be of their kind.

        Raises:
            SettingError: naming the option and its bounds.
        """
        for section in SECTIONS[1:]:  # data's are checked where the data is known
            for name, value in asdict(getattr(self, section)).items():
                if isinstance(value, bool) or not isinstance(value, int | float):
                    continue
                if not math.isfinite(value):
                    raise SettingError(
                        f"--{section}.{name.replace('_', '-')} must be a number, not {value:g}."
                    )
                may_be_zero = f"{section}.{name}" in MAY_BE_ZERO
                if value < 0 or (value == 0 and not may_be_zero):
                    bound = "at least 0" if may_be_zero else "more than 0"
                    raise SettingError(
                        f"--{section}.{name.replace('_', '-')} must be {bound}, not {value:g}."
                    )
        for section, largest in LARGEST_DROPOUT.items():
            drop_mult = getattr(self, section).drop_mult
            if drop_mult is not None and drop_mult * largest >= 1:
                raise SettingError(
                    f"--{section}.drop-mult must be less than {1 / largest:g}, not "
                    f"{drop_mult:g}: the largest of AWD-LSTM's dropouts is {largest:g}, and "
                    "nothing would be left."
                )
        shares = ("distillation", "hard_weight"), ("distillation", "confidence")
        for section, name in (*shares, ("update", "task_vector")):
            if (value := getattr(getattr(self, section), name)) > 1:
                option = f"--{section}.{name.replace('_', '-')}"
                raise SettingError(f"{option} must be from 0 to 1, not {value:g}.")
        if self.classifier.batch_size < 2:
            raise SettingError(
                "--classifier.batch-size must be 2 or more: batch normalisation cannot learn from "
                "one text."
            )
        if self.tokens.max_vocab < 100:
            raise SettingError(
                f"--tokens.max-vocab must be 100 or more, not {self.tokens.max_vocab}: "
                "9 words are special."
            )

    @property
    def starts(self) -> list[str]:
        """The name or folder that each direction starts from, the forward one first."""
        names = [self.lm.pretrained] * 2
        if self.lm.pretrained == "auto":
            general = CHINESE if is_chinese(self.tokens.language) else GENERAL
            names = [REVIEWS if self.data.source == "imdb" else general, general]
        return names[: 1 + self.bidirectional]
