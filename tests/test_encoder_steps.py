"""However many tokens an encoder reads at a time, a text's vector is that of the whole text."""

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from ulmfit_app.config import ModelSettings
from ulmfit_app.models.pooling import FEWEST_STEPS, TOKENS_AT_A_TIME, TOKENS_ON_CPU, TextEncoder
from ulmfit_app.models.reader import BPTT, Encoder
from ulmfit_app.text.rules import PAD_ID

SHAPE, WORDS = ModelSettings(emb_sz=40, n_hid=64, n_layers=3), 500
LENGTHS = [3, 400, 15, 16, 17, 51, 52, 72, 73, 128, *range(20, 80, 2)]


@pytest.fixture
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    module = Encoder(WORDS, SHAPE)
    for name, parameter in module.named_parameters():
        # So large that a token read twice, or left out, shows.
        torch.nn.init.normal_(parameter, std=1.0 if "encoder" in name else 0.15)
    return TextEncoder(BPTT, module, max_len=0).eval()


def texts() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(9, WORDS, (n,), generator=generator) for n in LENGTHS]


def encoded(encoder: TextEncoder, batch: list[torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return encoder(pad_sequence(batch, batch_first=True, padding_value=PAD_ID))[0]


def in_one_call(encoder: TextEncoder, text: torch.Tensor) -> torch.Tensor:
    """The reference: torch's own layers over the whole text, and its pooling."""
    with torch.no_grad():
        out = encoder.module.encoder(text[None])
        for layer in encoder.module.rnns:
            plain = torch.nn.LSTM(layer.input_size, layer.hidden_size, batch_first=True)
            plain.load_state_dict(layer.state_dict())
            out, _ = plain(out)
    return torch.cat([out[:, -1], out.amax(1), out.mean(1)], 1)


def batches(given: list[torch.Tensor]) -> dict[str, list[list[torch.Tensor]]]:
    others = given[:1] + given[2:]
    return {
        "alone": [[text] for text in given],
        "together": [given],
        "beside a long one": [[text, given[1]] for text in given],
        "without a long one": [[given[1]], others],
    }


@pytest.mark.parametrize("ways", ["alone", "together", "beside a long one", "without a long one"])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_a_texts_vector_is_that_of_the_whole_text_whatever_is_beside_it(
    encoder, dtype, near, ways
):
    given = texts()
    expected = torch.cat([in_one_call(encoder, text) for text in given])
    encoder.to(dtype)
    together = encoded(encoder, given)
    parts = [encoded(encoder, batch) for batch in batches(given)[ways]]
    if ways == "without a long one":
        found = torch.cat([parts[1][:1], parts[0], parts[1][1:]])
    else:
        found = torch.cat([part[:1] if ways.startswith("beside") else part for part in parts])
    assert (found - expected).abs().max() < near
    assert (found - together).abs().max() < 2e-6


def test_on_a_cpu_steps_are_of_as_many_tokens_as_multiply_fast_and_longer_where_rows_are_few(
    encoder,
):
    seen = []
    encoder.module.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[:2]))
    encoded(encoder, [torch.full((n,), 10) for n in (700, *[60] * 99, *[20] * 100)])
    assert seen == [
        (200, FEWEST_STEPS),
        (200, FEWEST_STEPS),
        (100, TOKENS_ON_CPU // 100),
        (100, TOKENS_ON_CPU // 100),
        (1, 700 - 2 * FEWEST_STEPS - 2 * (TOKENS_ON_CPU // 100)),
    ]


@pytest.mark.parametrize("rows", [1, 100, 1_000])
def test_steps_are_long_where_gradients_or_a_gpu_want_them_so(encoder, rows):
    """Attributions want a whole text in one step; memory bounds it."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    long = max(BPTT, TOKENS_AT_A_TIME // rows)
    assert encoder._tokens_per_step(rows, cpu) == long
    with torch.no_grad():
        assert encoder._tokens_per_step(rows, gpu) == long
        assert encoder._tokens_per_step(rows, cpu) < long
    encoder.train()
    assert {encoder._tokens_per_step(rows, device) for device in (cpu, gpu)} == {BPTT}
