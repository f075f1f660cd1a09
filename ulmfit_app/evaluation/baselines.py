"""What a classifier has to beat: the shares of the classes, and counting words."""

from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from ulmfit_app.languages import has_subwords

# L-BFGS keeps about 25 vectors as long as the coefficients (n-grams times classes): half a
# gigabyte at this length.
MAX_COEFFICIENTS = 5_000_000
FOLDS = 5


def majority(train_truth: np.ndarray, n_test: int, n_classes: int) -> np.ndarray:
    """Predict the commonest class of train for every text.

    Args:
        train_truth: [n_train] class indices.
        n_test: texts to predict.
        n_classes: classes, of which some may not be in train.

    Returns:
        Probabilities [n_test, n_classes]: the shares of the classes in train.

    >>> majority(np.array([0, 1, 1, 1]), n_test=2, n_classes=2).tolist()
    [[0.25, 0.75], [0.25, 0.75]]
    """
    shares = np.bincount(train_truth, minlength=n_classes) / len(train_truth)
    return np.tile(shares, (n_test, 1))


def label_shares(train_truth: np.ndarray, n_test: int) -> np.ndarray:
    """Give every text each of several labels with the probability of its share of train.

    Args:
        train_truth: [n_train, n_labels], 1 where a text has the label.
        n_test: texts to predict.

    Returns:
        Probabilities [n_test, n_labels].

    >>> label_shares(np.array([[0, 1], [1, 1]]), n_test=1).tolist()
    [[0.5, 1.0]]
    """
    return np.tile(train_truth.astype(float).mean(axis=0), (n_test, 1))


def tfidf_logistic_regression(
    train_texts: list[str],
    train_truth: np.ndarray,
    test_texts: list[str],
    n_classes: int,
    seed: int,
    language: str = "en",
    class_weight: Literal["balanced"] | None = None,
) -> np.ndarray:
    """Logistic regression on TF-IDF weights of words and word pairs.

    Fast, and hard to beat with few labels. The setting of Wang and Manning 2012, "Baselines and
    Bigrams", with logarithmic counts, and punctuation as words. In a language without spaces
    between words, characters and pairs of them take the place of words.

    Args:
        train_texts: n_train texts.
        train_truth: [n_train] class indices, at least two different ones.
        test_texts: n_test texts.
        n_classes: classes, of which some may not be in train.
        seed: of the optimizer.
        language: code of the texts' language.
        class_weight: balanced lets each class count the same in sum.

    Returns:
        Probabilities [n_test, n_classes], 0 for a class that is not in train.
    """
    train, test = _count_words(train_texts, test_texts, MAX_COEFFICIENTS // n_classes, language)
    # Of 1, 10 and 30 this had the lowest log loss on held-out parts of IMDb (1,000 and 20,000
    # texts) and TREC train.
    model = LogisticRegression(
        C=30, max_iter=1000, random_state=seed, class_weight=class_weight
    ).fit(train, train_truth)
    probabilities = np.zeros((len(test_texts), n_classes))
    probabilities[:, model.classes_] = model.predict_proba(test)
    return probabilities / probabilities.sum(axis=1, keepdims=True)


def tfidf_one_vs_rest(
    train_texts: list[str],
    train_truth: np.ndarray,
    test_texts: list[str],
    seed: int,
    language: str = "en",
) -> np.ndarray:
    """tfidf_logistic_regression of several labels a text: one model for each label.

    Args:
        train_texts: n_train texts.
        train_truth: [n_train, n_labels], 1 where a text has the label.
        test_texts: n_test texts.
        seed: of the optimizer.
        language: code of the texts' language.

    Returns:
        Probabilities [n_test, n_labels]; of a label that no text or every text of train has, its
        share.
    """
    train, test = _count_words(train_texts, test_texts, MAX_COEFFICIENTS, language)
    probabilities = label_shares(train_truth, len(test_texts))
    for label, has in enumerate(train_truth.T > 0):
        if has.any() and not has.all():
            # Of 1, 3 and 10 this had the highest mean average precision on GoEmotions' dev part.
            model = LogisticRegression(C=3, max_iter=1000, random_state=seed).fit(train, has)
            probabilities[:, label] = model.predict_proba(test)[:, 1]
    return probabilities


def _count_words(
    train_texts: list[str], test_texts: list[str], max_features: int, language: str
) -> tuple[csr_matrix, csr_matrix]:
    """TF-IDF weights of the texts, [n_texts, n_features], as train has them."""
    if has_subwords(language):
        units = dict(analyzer="char")
    else:
        # Single characters count too, or a text of emoji would be empty.
        units = dict(token_pattern=r"\w+|[^\w\s]")
    vectorizer = TfidfVectorizer(
        **units,
        ngram_range=(1, 2),
        sublinear_tf=True,
        # Of many texts, what occurs in only one takes most of the memory and says next to nothing.
        min_df=2 if len(train_texts) >= 1000 else 1,
        max_features=max(max_features, 1),
        dtype=np.float32,
    )
    try:
        train = vectorizer.fit_transform(train_texts)
    except ValueError:
        # Nothing occurs in two texts, as in a list of names.
        train = vectorizer.set_params(min_df=1).fit_transform(train_texts)
    return train, vectorizer.transform(test_texts)


def out_of_fold(
    texts: list[str],
    truth: np.ndarray,
    n_classes: int,
    groups: np.ndarray,
    seed: int,
    language: str = "en",
) -> np.ndarray:
    """What tfidf_logistic_regression says of each text when it has learned from the others.

    FOLDS-fold cross-validation, with the classes in their shares.

    Args:
        texts: n texts.
        truth: [n] class indices.
        n_classes: classes.
        groups: [n] a number that texts share which must stay together, such as copies.
        seed: of the folds and of the optimizer.
        language: code of the texts' language.

    Returns:
        Probabilities [n, n_classes].

    Raises:
        ValueError: a fold would leave a single class to learn from.
    """
    probabilities = np.zeros((len(texts), n_classes))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for learned, held_out in folds.split(texts, truth, groups):
        known, unknown = ([texts[i] for i in part] for part in (learned, held_out))
        probabilities[held_out] = tfidf_logistic_regression(
            known, truth[learned], unknown, n_classes, seed, language
        )
    return probabilities
