"""Structured pruning: a trained classifier without its least important units, heads and rows.

Of an AWD-LSTM, units of the LSTM layers below the last are removed, which is as wide as an
embedding; of a transformer, attention heads and rows of the feed-forward layers (Michel et al.
2019). They leave with all of their weights, as many from each layer, so that what is left is a
smaller model of the same kind, which any machine reads faster. Weights that are only set to zero
are multiplied as before.

What a unit is worth is measured by a gate g = 1 in front of all that reads it: |dL/dg|, the mean
over texts, is to first order what the loss L would move by if the unit was gone (Molchanov et al.
2017, section 2.2; Michel et al. 2019, equation 2). A gate on the units multiplies the weights W
that read them, so that dL/dg is the sum of W * dL/dW over these weights, those of an LSTM layer
that read its own last state among them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ulmfit_app.config import ModelSettings
from ulmfit_app.errors import BundleError, SettingError
from ulmfit_app.files import sha256_of_strings
from ulmfit_app.hardware import choose_device
from ulmfit_app.models import awd_lstm, transformer
from ulmfit_app.models.bundle import Bundle, load_bundle, load_weights, require_direction
from ulmfit_app.models.heads import count_heads, layout_of
from ulmfit_app.models.shapes import Shape
from ulmfit_app.text.batches import ClassifierBatches
from ulmfit_app.text.store import TokenStore

MEASURED = 128  # texts, at most: 64 and 128 choose about as well
BATCH_SIZE = 8  # texts whose gates are measured as one


@dataclass(frozen=True)
class Units:
    """Units of one layer, and the weights that leave with them.

    Args:
        n: how many there are.
        left: how many are to stay.
        made_by: names of weights [k * n * width, ...] that make them.
        read_by: names of weights [..., n * width] that read them.
    """

    n: int
    left: int
    made_by: tuple[str, ...]
    read_by: tuple[str, ...]


def prune_classifier(
    folder: Path, store: TokenStore, texts: Sequence[int], share: float
) -> tuple[Shape, dict[str, Tensor]]:
    """A trained classifier without a share of its inner units, the least important ones.

    Args:
        folder: of its bundle.
        store: texts, read in its direction.
        texts: those that it learned from, by number; their labels are not needed. Of more than
            128, at most so many are read, from all over.
        share: of the units of each inner LSTM layer, or of each block's attention heads and
            feed-forward rows, that is removed.

    Returns:
        The shape of what is left; and its weights, fp32, under the names of the model that
        `build_classifier` of `awd_lstm` or of `transformer` makes of that shape.

    Raises:
        SettingError: as `smaller` does.
        BundleError: the bundle cannot be trusted, or the store is of other words or in the other
            direction.
    """
    bundle = load_bundle(folder, "classifier")
    shape = smaller(bundle.shape, share)
    require_direction(bundle.direction, store.direction, f"The classifier in {folder}")
    if sha256_of_strings(store.words) != bundle.vocab_hash:
        raise BundleError(
            "The texts were numericalised with another vocabulary than that of the classifier in "
            f"{folder}, which would read every word as another. Give the texts of its own run."
        )
    model = build_classifier(bundle)
    load_weights(bundle, model)
    layers = find_units(bundle.shape, shape, model)
    some = np.asarray(texts)[:: max(-(-len(texts) // MEASURED), 1)]
    batches = ClassifierBatches(store, some, None, BATCH_SIZE)
    state = model.state_dict()
    importances = measure_importance(model.to(choose_device()), layers, batches)
    for units, importance in zip(layers, importances, strict=True):
        remove_units(state, units, importance)
    return shape, state


# ------------------------------------------------------------------------------------------- sizes
def smaller(shape: Shape, share: float) -> Shape:
    """The shape of a classifier without a share of its inner units.

    Raises:
        SettingError: the share is not between 0 and 1, removes nothing or leaves nothing; or the
            model has no inner units that could be removed.

    >>> smaller(ModelSettings(emb_sz=400, n_hid=1152, n_layers=3), 0.5)
    ModelSettings(emb_sz=400, n_hid=576, n_layers=3)
    """
    if not 0 < share < 1:
        raise SettingError(f"--share must be more than 0 and less than 1, not {share:g}.")
    if isinstance(shape, ModelSettings):
        if shape.n_layers == 1:
            raise SettingError(
                "An AWD-LSTM of one layer has no inner units to remove: those of its last layer "
                "are what its classifier reads. Prune a model of two layers or more."
            )
        found = replace(shape, n_hid=_left(shape.n_hid, share, "unit of an inner LSTM layer"))
    else:
        if shape.adapter is not None:
            raise SettingError(
                f"The classifier is an adapter ({shape.adapter}) on a transformer's weights, none "
                "of which are its own. Prune a run that was trained without --classifier.adapter."
            )
        layout = layout_of(shape)
        heads = _left(count_heads(shape), share, "attention head of a block")
        rows = _left(shape.model[layout.n_rows], share, "feed-forward row of a block")
        found = replace(shape, model={**shape.model, layout.n_rows: rows}, heads=heads)
    if inner_units(found) == inner_units(shape):
        raise SettingError(f"--share {share:g} is too little to remove anything. Give more.")
    return found


def inner_units(shape: Shape) -> dict[str, int]:
    """How many each layer or block has of what can be removed.

    >>> inner_units(ModelSettings(emb_sz=400, n_hid=1152, n_layers=3))
    {'units': 1152}
    """
    if isinstance(shape, ModelSettings):
        return {"units": shape.n_hid}
    return {"heads": count_heads(shape), "rows": shape.model[layout_of(shape).n_rows]}


def _left(n: int, share: float, what: str) -> int:
    left = n - round(n * share)
    if left == 0:
        raise SettingError(
            f"--share {share:g} leaves no {what}: there {'are' if n > 1 else 'is'} {n}. Give less."
        )
    return left


# --------------------------------------------------------------------------------------- the units
def build_classifier(bundle: Bundle) -> nn.Module:
    """A classifier of a bundle's shape as it is trained, with random weights, in evaluation."""
    n_classes = len(bundle.labels)
    if isinstance(bundle.shape, ModelSettings):
        model = awd_lstm.build_classifier(len(bundle.vocab), n_classes, bundle.shape)
    else:
        model = transformer.build_classifier(bundle.shape, n_classes)
    return model.eval()


def find_units(shape: Shape, wanted: Shape, model: nn.Module) -> list[Units]:
    """What of a classifier leaves together, by layer.

    Args:
        shape: of the classifier.
        wanted: as `smaller` gives it.
        model: the classifier.
    """
    n, left = inner_units(shape), inner_units(wanted)
    if isinstance(shape, ModelSettings):
        rnns = [f"0.module.rnns.{i}." for i in range(shape.n_layers)]
        own = "module.weight_ih_l0", "module.bias_ih_l0", "module.bias_hh_l0"
        last = "weight_hh_l0_raw"
        return [
            Units(
                n["units"],
                left["units"],
                tuple(f"{here}{name}" for name in (*own, last)),
                (f"{here}{last}", f"{above}module.weight_ih_l0"),
            )
            for here, above in zip(rnns, rnns[1:], strict=False)
        ]
    layout = layout_of(shape)
    name, blocks = transformer.blocks_of(model[0].module)
    known = model.state_dict()
    found = []
    for block in (f"0.module.{name}.{i}." for i in range(len(blocks))):
        for what, makers, reader in (
            ("heads", layout.queries, layout.attended),
            ("rows", (layout.rows,), layout.read),
        ):
            made_by = [f"{block}{maker}.{part}" for maker in makers for part in ("weight", "bias")]
            made_by = tuple(each for each in made_by if each in known)
            found.append(Units(n[what], left[what], made_by, (f"{block}{reader}.weight",)))
    return found


def measure_importance(
    model: nn.Module, layers: list[Units], batches: ClassifierBatches
) -> list[Tensor]:
    """What the loss would move by without a unit, to first order.

    The loss is the cross-entropy with the label that the model itself finds most probable.

    Args:
        model: the classifier, in evaluation.
        layers: of it.
        batches: texts.

    Returns:
        Of each layer, [n], at least 0, on the CPU: the sum over batches.
    """
    parameters = dict(model.named_parameters())
    read_by = [[parameters[name] for name in units.read_by] for units in layers]
    model.requires_grad_(False)
    weights = [weight.requires_grad_() for some in read_by for weight in some]
    device = weights[0].device
    totals = [torch.zeros(units.n) for units in layers]
    # CUDA's own LSTM has no backward pass outside of training.
    with torch.backends.cudnn.flags(enabled=False):
        for (x,) in batches:
            logits = model(x.to(device))[0]
            loss = F.cross_entropy(logits, logits.argmax(1))
            gradient = dict(zip(weights, torch.autograd.grad(loss, weights), strict=True))
            for units, some, total in zip(layers, read_by, totals, strict=True):
                gates = sum(_by_unit(each * gradient[each], units.n) for each in some)
                total += gates.abs().cpu()
    return totals


def _by_unit(product: Tensor, n: int) -> Tensor:
    """Sums [n] of [..., n * width]."""
    return product.detach().unflatten(-1, (n, -1)).sum(-1).flatten(0, -2).sum(0)


def remove_units(state: dict[str, Tensor], units: Units, importance: Tensor) -> None:
    """Leave in a classifier's weights a layer's most important units, the best ones first.

    Args:
        state: weights by their names; those that have to do with these units are replaced.
        units: of one layer.
        importance: of each, [n].
    """
    best = importance.topk(units.left).indices
    for name in units.read_by:
        state[name] = state[name].unflatten(-1, (units.n, -1))[..., best, :].flatten(-2)
    for name in units.made_by:
        width = state[units.read_by[-1]].shape[-1] // units.left
        state[name] = state[name].unflatten(0, (-1, units.n, width))[:, best].flatten(0, 2)
