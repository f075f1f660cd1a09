"""What people read beside a pretrained language model: its card, its history, its curve."""

from pathlib import Path

import pandas as pd

from data_scripts.files import replacing
from ulmfit_app.config import Settings
from ulmfit_app.evaluation.drawing import save_png
from ulmfit_app.evaluation.figures import training_curves_figure
from ulmfit_app.evaluation.tables import markdown_table
from ulmfit_app.files import write_table
from ulmfit_app.hardware import resolve_precision
from ulmfit_app.models.bundle import Bundle, versions
from ulmfit_app.run_folder import HISTORY

CARD = "MODEL_CARD.md"


def write_about(folder: Path, bundle: Bundle, settings: Settings, history: pd.DataFrame) -> None:
    """Write a bundle's card, its history, and the curve of the loss.

    Args:
        folder: of the bundle.
        bundle: its description.
        settings: by which it was trained.
        history: one row per epoch, with the tokens read so far.
    """
    with replacing(folder / CARD) as draft:
        draft.write_text(_card(folder.name, bundle, settings), encoding="utf-8")
    write_table(folder / HISTORY, history)
    title = f"{folder.name}; an epoch is {history['tokens'].iloc[0] / 1e6:.2g} million tokens"
    with replacing(folder / "curve.png") as draft:
        save_png(training_curves_figure(history, title), draft)


def _card(name: str, bundle: Bundle, settings: Settings) -> str:
    """What a user of the model has to know of it, in Markdown."""
    about, shape, lm = bundle.about, bundle.shape, settings.lm
    corpus, held_out = about["corpus"], about["held_out"]
    rows = {
        "corpus": f"{corpus['name']} (sha256 {corpus['sha256'][:16]}…), "
        f"{about['tokens_in_corpus']:,} tokens to learn from",
        "trained on": f"{about['tokens_trained_on']:,} tokens, from {about['start']}, in "
        f"{about['hours']} hours",
        "perplexity": f"{about['perplexity']:.1f} on {held_out['documents']:,} held-out "
        f"documents, {_of_tokens(held_out)}",
        **({"texts converted by": f"OpenCC, {bundle.opencc}"} if bundle.opencc else {}),
        "settings": f"{lm.softmax} softmax, batches of {lm.batch_size} x {lm.bptt}, AWD's "
        f"dropouts x {lm.drop_mult:g}, seed {settings.seed}, "
        f"{resolve_precision(settings.precision)}",
        "versions": ", ".join(f"{package} {number}" for package, number in versions().items()),
    }
    table = markdown_table(["", ""], rows.items())
    return f"""# {name}

An AWD-LSTM language model (Merity et al. 2017), {shape.emb_sz}/{shape.n_hid}/{shape.n_layers},
{len(bundle.vocab):,} {"subwords" if bundle.tokenizer else "words"}, language {bundle.language}, \
which reads {bundle.direction}.

{table}

Perplexity is over this vocabulary and these tokens, and comparable only with models of the same.
The model repeats what its corpus says, its prejudices too. The corpus's licence holds for what is
made of it.
"""


def _of_tokens(held_out: dict) -> str:
    if "characters" not in held_out:
        return f"of whose tokens {held_out['unknown_share']:.1%} are unknown words"
    return (
        f"{held_out['perplexity_per_character']:.2f} per character of {held_out['characters']:,}"
    )
