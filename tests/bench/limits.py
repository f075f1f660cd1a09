"""The processor's limit: which matrix products a unit of work consists of, and how long they take.

A limit is the time of these products alone, each in the quickest layout that torch offers here:
nothing between them, nothing laid out anew. Of the encoder, the numbers of rows and tokens are
those that it was called with; of the softmax over the words, those of `models/softmax.py`. The
few products of a classifier's head, a thousandth of the others, are left out.
"""

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ulmfit_app.models.softmax import TOKENS_AT_A_TIME, VocabularyHead

# A product over more tokens at once is as quick per token as one over so many.
MANY_TOKENS = 64 * 72
LARGE = 4_096
TURN = 0.01  # seconds that a product is timed for at a time, or once where it takes longer


class Product(NamedTuple):
    """[rows, inner] x [inner, columns]."""

    rows: int
    inner: int
    columns: int

    def flop(self) -> int:
        """Multiplications and additions."""
        return 2 * self.rows * self.inner * self.columns


# What this process has multiplied since it was last emptied: product -> how often.
multiplied: Counter[Product] = Counter()


def flop_of(products: dict[Product, float]) -> float:
    """Multiplications and additions of all."""
    return sum(times * product.flop() for product, times in products.items())


# ----------------------------------------------------------------------------- what is multiplied
def watch_encoder(encoder: nn.Module) -> None:
    """Note in `multiplied` what the LSTM layers of an encoder multiply whenever it is called."""
    layers = [layer for layer in encoder.modules() if isinstance(layer, nn.LSTM)]

    def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        rows, steps = args[0].shape[:2]
        for layer in layers:
            sizes = layer.input_size, layer.hidden_size
            multiplied.update(lstm_products(rows, steps, *sizes, torch.is_grad_enabled()))

    encoder.register_forward_pre_hook(note)


def lstm_products(
    rows: int, steps: int, n_in: int, n_hid: int, learns: bool
) -> Counter[Product, float]:
    """Of one layer: a large one over all steps for its input, and per step one for its recurrence.

    Args:
        rows: texts.
        steps: tokens of each.
        n_in, n_hid: of the layer.
        learns: whether gradients are computed: of the input, the state and both weights.
    """
    gates = 4 * n_hid
    size, times = _in_sizes(rows * steps)
    found = Counter()
    found[Product(size, n_in, gates)] += times
    found[Product(rows, n_hid, gates)] += steps
    if learns:
        found[Product(size, gates, n_in)] += times
        found[Product(rows, gates, n_hid)] += steps
        found[Product(gates, size, n_in)] += times
        found[Product(gates, size, n_hid)] += times
    return found


def _in_sizes(tokens: int) -> tuple[int, float]:
    """A number of tokens as a size that is timed, times how often it goes into them.

    Texts have all numbers of tokens. The sizes are those of two binary digits (64, 96, 128, …), so
    that few have to be timed.
    """
    unit = 1 << max(tokens.bit_length() - 2, 0)
    size = MANY_TOKENS if tokens >= MANY_TOKENS else round(tokens / unit) * unit
    return size, tokens / size


def watch_softmax(head: VocabularyHead) -> None:
    """Note in `multiplied` what the head's loss multiplies, forward and backward: over all words,
    or over those that its sampler chooses."""

    def note(tokens: int, weight: Tensor) -> None:
        multiplied.update(softmax_products(tokens, *weight.t().shape))

    if head.sampler is None:
        head.register_forward_hook(
            lambda _, inputs, __: note(inputs[0].shape[:-1].numel(), head.decoder.weight)
        )
        return
    choose = head.sampler.choose

    def choose_and_note(
        weight: Tensor, bias: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        found = choose(weight, bias, targets)
        note(len(targets), found[0])
        return found

    head.sampler.choose = choose_and_note


def softmax_products(tokens: int, emb: int, words: int) -> Counter[Product, float]:
    """Of a softmax over words that learns: the logits, and the gradients of both their factors."""
    found = Counter()
    whole, rest = divmod(tokens, TOKENS_AT_A_TIME)
    for piece, times in ((TOKENS_AT_A_TIME, whole), (rest, min(rest, 1))):
        if times:
            found[Product(piece, emb, words)] += times
            found[Product(piece, words, emb)] += times
            found[Product(words, piece, emb)] += times
    return found


# ------------------------------------------------------------------------------ how long it takes
class Stopwatch:
    """The least time of each product, over turns that are taken between other work.

    Args:
        dtype: that is multiplied.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._numbers = torch.empty(0, dtype=dtype)
        self._least: dict[Product, list[float]] = {}  # of each way

    @torch.inference_mode()
    def take_turns(self, products: dict[Product, float]) -> None:
        """Time each once more: at first in all ways, then in the one that was the quickest."""
        for product in (*products, Product(LARGE, LARGE, LARGE)):
            ways = self._ways(product)
            least = self._least.setdefault(product, [math.inf] * len(ways))
            is_new = math.inf in least
            for i in range(len(ways)) if is_new else [least.index(min(least))]:
                if is_new:
                    ways[i]()  # oneDNN compiles it
                least[i] = min(least[i], _least_seconds(ways[i]))

    def seconds(self, products: dict[Product, float]) -> float:
        """What all of them take, each as often as it is there."""
        return sum(times * min(self._least[product]) for product, times in products.items())

    def gflops(self, products: dict[Product, float]) -> int:
        """Their rate, 10^9 multiplications and additions per second."""
        return round(flop_of(products) / self.seconds(products) / 1e9)

    def large_gflops(self) -> int:
        """The rate of one large product."""
        return self.gflops({Product(LARGE, LARGE, LARGE): 1})

    def _ways(self, product: Product) -> list[Callable[[], Tensor]]:
        """As torch multiplies, with a factor as it is and transposed, and with one that oneDNN has
        laid out: see `models/products.py` about the operators."""
        rows, inner, columns = product
        split, end = rows * inner, rows * inner + inner * columns
        if len(self._numbers) < end:
            self._numbers = torch.randn(end).to(self._dtype)
        a, other = self._numbers[:split].view(rows, inner), self._numbers[split:end]
        b, b_t = other.view(inner, columns), other.view(columns, inner)
        ways = [lambda: a @ b, lambda: a @ b_t.t()]
        mkldnn = torch.ops.mkldnn
        if torch.backends.mkldnn.is_available() and hasattr(mkldnn, "_linear_pointwise"):
            packed = mkldnn._reorder_linear_weight(b_t)
            ways.append(lambda: mkldnn._linear_pointwise(a, packed, None, "none", [], ""))
        return ways


def _least_seconds(way: Callable[[], Tensor]) -> float:
    least, end = math.inf, time.perf_counter() + TURN
    while True:
        began = time.perf_counter()
        way()
        now = time.perf_counter()
        least = min(least, now - began)
        if now >= end:
            return least
