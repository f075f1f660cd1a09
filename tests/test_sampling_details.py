import pytest
import torch

from ulmfit_app.config import SamplingSettings
from ulmfit_app.inference.sampling import filter_logits


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7)])
def test_words_are_chosen_alike_however_many_rows_stand_before_them(shape):
    torch.manual_seed(0)
    logits, settings = 3 * torch.randn(shape), SamplingSettings(top_k=5, top_p=0.9, min_p=0.01)
    rows = logits.reshape(-1, 7)
    expected = torch.cat([filter_logits(row[None], settings) for row in rows])
    assert torch.equal(filter_logits(logits, settings).reshape(-1, 7), expected)
    assert expected.isinf().any() and expected.isfinite().any(-1).all()
