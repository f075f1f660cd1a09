"""What differs by a model's architecture where it is read with: its modules and its tokenizer."""

from ulmfit_app.models import reader, transformer
from ulmfit_app.models.adapters import read_base, with_adapter
from ulmfit_app.models.bundle import Bundle, load_weights
from ulmfit_app.models.reader import Reader
from ulmfit_app.models.shapes import TransformerShape
from ulmfit_app.models.start import Start
from ulmfit_app.text.rules import PAD_ID
from ulmfit_app.text.store import OF_SUBWORDS
from ulmfit_app.text.subwords import SubwordTokenizer
from ulmfit_app.text.tokenizer import Tokenizer


def read_classifier(bundle: Bundle) -> Reader:
    """The classifier of a loaded bundle, in evaluation.

    Returns:
        Of ids [batch, length], padded on the right, it gives logits [batch, classes].

    Raises:
        BundleError: its weights do not fit its description, or what its adapter stands on is gone
            or has changed.
        SettingError, data_scripts.fetch.FetchError: as `read_base` and `with_adapter` do.
    """
    shape = bundle.shape
    if not isinstance(shape, TransformerShape):
        return reader.read_classifier(bundle)
    module = None
    if shape.adapter is not None:
        module = with_adapter(read_base(bundle.weights.parent, shape.base), shape)
    model = transformer.build_classifier(shape, len(bundle.labels), module)
    load_weights(bundle, model)
    return model.eval()


def tokenizer_of(bundle: Bundle) -> Tokenizer | SubwordTokenizer:
    """What makes tokens of texts for the model of a bundle.

    Raises:
        SettingError: spaCy lacks the language, or the extra `transformers` is not installed.
    """
    if isinstance(bundle.shape, TransformerShape):
        return subwords_of(bundle)
    return Tokenizer(bundle.language)


def subwords_of(model: Bundle | Start) -> SubwordTokenizer:
    """What makes tokens of texts for a transformer, by its bundle or as a start.

    Raises:
        SettingError: the extra `transformers` is not installed.
    """
    return SubwordTokenizer(model.tokenizer, model.vocab[model.shape.begin])


def padding_of(bundle: Bundle) -> int:
    """What stands behind the shorter texts of a batch for the model of a bundle."""
    return OF_SUBWORDS if isinstance(bundle.shape, TransformerShape) else PAD_ID
