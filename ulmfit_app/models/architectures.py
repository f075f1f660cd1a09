"""What differs by a model's architecture where it is read with: its modules and its tokenizer."""

from collections.abc import Iterable

from ulmfit_app.models import reader, transformer
from ulmfit_app.models.adapters import read_base, with_adapter
from ulmfit_app.models.bundle import Bundle, load_weights
from ulmfit_app.models.reader import Reader
from ulmfit_app.models.shapes import TransformerShape
from ulmfit_app.models.start import Start
from ulmfit_app.text.rules import PAD_ID
from ulmfit_app.text.store import OF_SUBWORDS, TokenStore
from ulmfit_app.text.subword_store import subwords_in_memory
from ulmfit_app.text.subwords import SubwordTokenizer
from ulmfit_app.text.tokenizer import Tokenizer
from ulmfit_app.text.tokenizing import in_memory
from ulmfit_app.text.unigram import BEGIN


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
        SettingError: spaCy lacks the language, or the extra that it needs is not installed.
    """
    if bundle.tokenizer:
        return subwords_of(bundle, bundle.opencc)
    return Tokenizer(bundle.language)


def subwords_of(model: Bundle | Start, opencc: str | None = None) -> SubwordTokenizer:
    """What makes subwords of texts for a model, by its bundle or as a start.

    Args:
        model: whose tokens are subwords.
        opencc: the conversion that texts go through first.

    Raises:
        SettingError: the extra that it needs is not installed.
    """
    of_transformer = isinstance(model.shape, TransformerShape)
    begin = model.vocab[model.shape.begin] if of_transformer else BEGIN
    return SubwordTokenizer(model.tokenizer, begin, opencc or "")


def store_in_memory(bundle: Bundle, texts: Iterable[str]) -> TokenStore:
    """Texts as ids for the AWD-LSTM of a bundle, in the direction that it reads.

    Args:
        bundle: of the model.
        texts: as they were typed; may be a stream.

    Raises:
        SettingError: as `tokenizer_of` does.
    """
    if bundle.tokenizer:
        return subwords_in_memory(texts, subwords_of(bundle, bundle.opencc), bundle.direction)
    return in_memory(texts, bundle.language, bundle.vocab, bundle.direction)


def padding_of(bundle: Bundle) -> int:
    """What stands behind the shorter texts of a batch for the model of a bundle."""
    return OF_SUBWORDS if isinstance(bundle.shape, TransformerShape) else PAD_ID
