import pytest
import torch

from ulmfit_app.inference.sampling import NGrams, filter_logits
from ulmfit_app.sampling_settings import SamplingSettings


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7)])
def test_words_are_chosen_alike_however_many_rows_stand_before_them(shape):
    torch.manual_seed(0)
    logits, settings = 3 * torch.randn(shape), SamplingSettings(top_k=5, top_p=0.9, min_p=0.01)
    rows = logits.reshape(-1, 7)
    expected = torch.cat([filter_logits(row[None], settings) for row in rows])
    assert torch.equal(filter_logits(logits, settings).reshape(-1, 7), expected)
    assert expected.isinf().any() and expected.isfinite().any(-1).all()


LOGITS = torch.randn(6, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3


@pytest.fixture
def theirs():
    """transformers' own classes."""
    return pytest.importorskip(
        "transformers.generation", reason="the extra transformers is not installed"
    )


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"top_k": 7}, "TopKLogitsWarper"),
        ({"top_p": 0.8}, "TopPLogitsWarper"),
        ({"min_p": 0.1}, "MinPLogitsWarper"),
        ({"temperature": 0.7}, "TemperatureLogitsWarper"),
    ],
)
def test_filters_are_those_of_transformers(theirs, setting, name):
    ours = filter_logits(LOGITS, SamplingSettings(**{"temperature": 1.0} | setting))
    expected = getattr(theirs, name)(*setting.values())(None, LOGITS.clone())
    torch.testing.assert_close(ours.softmax(-1), expected.softmax(-1))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_repeats_are_those_of_transformers(theirs, n):
    ids = torch.randint(4, (1, 30), generator=torch.Generator().manual_seed(n))
    left = theirs.NoRepeatNGramLogitsProcessor(n)(ids, torch.zeros(1, 6))
    expected = set(torch.nonzero(left[0].isinf())[:, 0].tolist())
    assert NGrams(n, ids[0].tolist()).find_repeats() == expected != set()
