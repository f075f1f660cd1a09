"""The presets: settings of a whole run, and of pretraining, as values derived with `replace`."""

from dataclasses import replace

from ulmfit_app.config import (
    ClassifierSettings,
    DataSettings,
    LanguageModelSettings,
    ModelSettings,
    Settings,
    TokenSettings,
)

PAPER = Settings()

# Fits 20 minutes on two cores with bf16 units; what that costs in accuracy is in the README.
LAPTOP = replace(
    PAPER,
    data=DataSettings(max_valid=1_000),
    tokens=TokenSettings(max_vocab=40_000),
    model=ModelSettings(emb_sz=256, n_hid=768, n_layers=3),
    # Of a few thousand short texts, ten epochs learn by heart what three learn to expect.
    lm=LanguageModelSettings(
        pretrained="auto",
        epochs=3,
        lr=4e-3,
        drop_mult=0.1,
        softmax="sampled",
        max_tokens=1_500_000,
    ),
    classifier=ClassifierSettings(max_tokens=7_000_000),
)

# Seconds: to see every stage run, not to learn much.
TINY = replace(
    LAPTOP,
    data=DataSettings(max_train=200, max_valid=100, max_test=200, max_unlabelled=100),
    tokens=TokenSettings(max_vocab=5_000),
    model=ModelSettings(emb_sz=48, n_hid=96, n_layers=2),
    lm=LanguageModelSettings(pretrained="none", epochs=1, drop_mult=0.1, batch_size=16),
    classifier=ClassifierSettings(batch_size=32, epochs=5, max_tokens=1_500_000),
)

PRESETS = {"tiny": TINY, "laptop": LAPTOP, "paper": PAPER}


# Stage one. A model that a laptop learns in a night, and that a package can carry; it underfits
# for most of the time, so that dropout would only slow it down.
SMALL = Settings(
    tokens=TokenSettings(max_vocab=40_000),
    model=ModelSettings(emb_sz=256, n_hid=768, n_layers=3),
    lm=LanguageModelSettings(
        pretrained="none",
        epochs=5,
        random_lr=6e-3,
        drop_mult=0.0,
        weight_decay=0.01,
        batch_size=128,
        softmax="sampled",
        grad_clip=1.0,
        max_tokens=300_000_000,
    ),
)

PAPER_PRETRAINING = replace(
    SMALL,
    tokens=TokenSettings(),
    model=ModelSettings(),
    lm=replace(SMALL.lm, epochs=10, random_lr=3e-3, drop_mult=0.1, max_tokens=None),
)

PRETRAINING_PRESETS = {"small": SMALL, "paper": PAPER_PRETRAINING}
