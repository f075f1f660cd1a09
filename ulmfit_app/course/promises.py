"""The end of notebook 06: what a threshold promises on the texts that chose it, and keeps."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from ulmfit_app.evaluation.calibration import answered, risk_coverage, threshold_for

N_DRAWS = 200  # of texts to choose a threshold on
# Probabilities, [n, n_labels], and truth, [n], the index of each text's label.
Outcome = tuple[np.ndarray, np.ndarray]


def find_lowest(error: float, curve: pd.DataFrame) -> float | None:
    """The lowest confidence above which at most a share of these very answers is wrong.

    Args:
        error: the share.
        curve: what risk_coverage returns.

    Returns:
        The confidence; None where there is none.
    """
    fitting = curve[curve["error"] <= error]
    return None if fitting.empty else float(fitting["threshold"].iloc[-1])


RULES: dict[str, Callable[[float, pd.DataFrame], float | None]] = {
    "the lowest that fits": find_lowest,
    "as if one more were wrong": threshold_for,
}


def measure_promises(
    probabilities: np.ndarray,
    truth: np.ndarray,
    error: float,
    n: int,
    rules: Sequence[str] = tuple(RULES),
    seed: int = 0,
) -> pd.DataFrame:
    """What a threshold promises on the texts that chose it, and what it keeps on others.

    N_DRAWS times, texts are drawn, and each rule chooses a threshold on them.

    Args:
        probabilities: [n_texts, n_labels].
        truth: the index of each text's label, [n_texts].
        error: the share of wrong answers that is wanted at most.
        n: texts to draw, at most half of them.
        rules: names of RULES.
        seed: of the draws.

    Returns:
        One row per rule: promised, the mean error on the drawn texts, over draws with a threshold;
        kept, the mean error on the others, 0 where none is answered; broken, the share of draws
        in which that is above `error`; answered, the mean share of the others that is answered;
        none, the share of draws without a threshold.
    """
    n, rows = min(n, len(truth) // 2), []
    for name in rules:
        generator, found = np.random.default_rng(seed), []
        for _ in range(N_DRAWS):
            order = generator.permutation(len(truth))
            chosen, others = order[:n], order[n:]
            threshold = RULES[name](error, risk_coverage(probabilities[chosen], truth[chosen]))
            if threshold is None:
                found.append((np.nan, 0.0, 0.0))
                continue
            promised, kept = (
                answered(probabilities[part], truth[part], threshold) for part in (chosen, others)
            )
            found.append((promised["error"], kept["error"] or 0.0, kept["coverage"]))
        of = pd.DataFrame(found, columns=["promised", "kept", "answered"])
        row = {
            "rule": name,
            "promised": of["promised"].mean(),
            "kept": of["kept"].mean(),
            "broken": (of["kept"] > error).mean(),
            "answered": of["answered"].mean(),
            "none": of["promised"].isna().mean(),
        }
        rows.append(row)
    return pd.DataFrame(rows)
