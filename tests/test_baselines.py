"""The baselines: probabilities of the right shape, better than chance, on awkward texts too."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from ulmfit_app.evaluation.baselines import (
    FOLDS,
    label_shares,
    majority,
    out_of_fold,
    tfidf_logistic_regression,
    tfidf_one_vs_rest,
)


def reviews(n: int, n_classes: int = 2, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts of which some words depend on the class."""
    generator = np.random.default_rng(seed)
    truth = np.arange(n) % n_classes
    texts = [
        " ".join(
            [f"word{generator.integers(300)}" for _ in range(12)]
            + [f"sign{label}" if generator.random() < 0.9 else ""]
        )
        for label in truth
    ]
    return texts, truth


def test_majority_predicts_the_commonest_class_with_the_shares_of_train():
    probabilities = majority(np.array([2, 2, 2, 0]), n_test=3, n_classes=4)
    assert probabilities.tolist() == [[0.25, 0.0, 0.75, 0.0]] * 3


@pytest.mark.parametrize(("n", "n_classes"), [(12, 2), (1200, 2), (1200, 6)])
def test_tfidf_learns_what_words_say_about_the_class(n, n_classes):
    texts, truth = reviews(n, n_classes)
    test_texts, test_truth = reviews(300, n_classes, seed=1)
    probabilities = tfidf_logistic_regression(texts, truth, test_texts, n_classes, seed=0)
    assert probabilities.shape == (300, n_classes) and probabilities.dtype == float
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(300))
    assert (probabilities.argmax(axis=1) == test_truth).mean() > 0.75


def test_tfidf_is_the_same_twice():
    texts, truth = reviews(200)
    first, second = (tfidf_logistic_regression(texts, truth, texts, 2, seed=3) for _ in range(2))
    assert (first == second).all()


def test_a_class_that_train_lacks_gets_no_probability():
    probabilities = tfidf_logistic_regression(
        ["good", "bad"], np.array([0, 2]), ["good"], n_classes=3, seed=0
    )
    assert probabilities[0, 1] == 0 and probabilities[0].argmax() == 0


def test_texts_that_share_no_word_still_give_a_baseline():
    names = [f"name{index}" for index in range(1000)]
    truth = np.array([0] * 700 + [1] * 300)
    probabilities = tfidf_logistic_regression(
        names, truth, ["name0", "unseen"], n_classes=2, seed=0
    )
    assert (probabilities.argmax(axis=1) == 0).all()


CHINESE = [
    "这部电影太好看了，值得再看一遍",
    "剧情太差了，浪费时间",
    "演员演得好，故事也好看",
    "太无聊了，差评",
]


def test_in_chinese_characters_say_something_about_the_class():
    # None of them stands between two commas in train.
    texts, truth = ["真好看", "真差", "故事好看", "浪费了时间"], np.array([1, 0, 1, 0])
    probabilities = tfidf_logistic_regression(
        CHINESE, truth, texts, n_classes=2, seed=0, language="zh"
    )
    assert (probabilities.argmax(axis=1) == truth).all()


def test_in_chinese_the_features_are_characters_and_pairs_of_them():
    reference = make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32),
        LogisticRegression(C=30, max_iter=1000, random_state=0),
    ).fit(CHINESE, [1, 0, 1, 0])
    found = tfidf_logistic_regression(
        CHINESE, np.array([1, 0, 1, 0]), CHINESE, n_classes=2, seed=0, language="zh"
    )
    assert found == pytest.approx(reference.predict_proba(CHINESE))


def test_single_characters_emoji_and_other_scripts_are_words():
    texts = ["👍", "👎", "好", "差", "a", "b"]
    truth = np.array([1, 0] * 3)
    assert (
        tfidf_logistic_regression(texts, truth, texts, n_classes=2, seed=0).argmax(axis=1) == truth
    ).all()


def test_no_text_is_judged_by_what_was_learned_from_it_or_its_group():
    # Each group of three has a word of its own, and a label that no other word foretells.
    generator = np.random.default_rng(0)
    groups = np.arange(300) // 3
    truth = generator.integers(2, size=100)[groups]
    texts = [f"only{group} the film {i}" for i, group in enumerate(groups)]
    learned = tfidf_logistic_regression(texts, truth, texts, 2, seed=0)
    held_out = out_of_fold(texts, truth, 2, groups, seed=0)
    parted = out_of_fold(texts, truth, 2, np.arange(300), seed=0)
    right = [(found.argmax(axis=1) == truth).mean() for found in (learned, parted, held_out)]
    assert right[0] == 1 and right[1] > 0.9 and right[2] < 0.65


def test_out_of_fold_probabilities_are_those_of_scikit_learns_cross_validation():
    texts, truth = reviews(200)
    model = make_pipeline(
        TfidfVectorizer(
            token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32
        ),
        LogisticRegression(C=30, max_iter=1000, random_state=3),
    )
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=3)
    groups = np.arange(200) // 2
    expected = cross_val_predict(
        model, texts, truth, groups=groups, cv=folds, method="predict_proba"
    )
    assert out_of_fold(texts, truth, 2, groups, seed=3) == pytest.approx(expected, abs=1e-6)


def test_one_vs_rest_is_scikit_learns_on_the_same_words():
    texts, truth = reviews(400, 3)
    sets = np.eye(3)[truth] + np.eye(3)[(truth + 1) % 3] * (np.arange(400) % 2)[:, None]
    found = tfidf_one_vs_rest(texts[:300], sets[:300], texts[300:], seed=0)
    words = TfidfVectorizer(
        token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32
    )
    each = OneVsRestClassifier(LogisticRegression(C=3, max_iter=1000, random_state=0))
    model = make_pipeline(words, each).fit(texts[:300], sets[:300].astype(int))
    np.testing.assert_allclose(found, model.predict_proba(texts[300:]), atol=1e-5)
    assert not np.allclose(found.sum(axis=1), 1)


def test_a_label_that_no_text_or_every_text_of_train_has_is_given_its_share():
    texts, truth = reviews(60)
    sets = np.c_[truth, np.zeros(60), np.ones(60)]
    found = tfidf_one_vs_rest(texts, sets, ["word1", ""], seed=0)
    assert found[:, 1].tolist() == [0, 0] and found[:, 2].tolist() == [1, 1]
    assert ((found[:, 0] > 0) & (found[:, 0] < 1)).all()
    assert label_shares(sets, 2).tolist() == [[0.5, 0, 1]] * 2


def test_balanced_class_weights_find_more_texts_of_a_rare_class():
    texts, truth = reviews(400)
    rare = np.flatnonzero((truth == 0) | (np.arange(400) % 20 == 1))
    known = [texts[i] for i in rare], truth[rare], texts, 2, 0
    plain, balanced = (
        tfidf_logistic_regression(*known, class_weight=weight)[:, 1]
        for weight in (None, "balanced")
    )
    assert balanced.mean() > plain.mean() + 0.05
