"""The files of a transformer: those in a folder, checked, and those on the Hugging Face hub.

Of a model of the hub, huggingface_hub fetches the files of one commit, by name, into the hub's
cache. By itself it would wait over a minute for a server that does not answer.
"""

import json
import logging
import os
import re
import shlex
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from data_scripts.fetch import FetchError
from ulmfit_app.errors import BundleError

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10
MAIN = "main"  # the branch

AGAIN = "Copy or download the model again."

Kind = Literal["masked", "causal"]

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZERS = (
    *("tokenizer.json", "vocab.txt", "vocab.json"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
SMALL = (
    *("config.json", "generation_config.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "merges.txt"),
)


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file says; {} without one."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{path} is no JSON file ({error}). {AGAIN}") from None
    if not isinstance(found, dict):
        raise BundleError(f"{path} describes no model: it holds no JSON object. {AGAIN}")
    return found


def require_weights(folder: Path, kind: Kind) -> None:
    """Refuse a folder whose weights are missing, incomplete or pickled; only headers are read.

    Args:
        folder: of a model.
        kind: of it, for the command that converts pickled weights.

    Raises:
        BundleError: it has no safetensors, or some are not whole.
    """
    weights, index = (folder / file for file in WEIGHTS)
    files = [weights]
    if not weights.is_file() and index.is_file():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise BundleError(f"{index} lists no weights. {AGAIN}")
        names = sorted(set(map(str, shards.values())))
        if outside := [name for name in names if Path(name).name != name]:
            raise BundleError(f"{index} names a file outside its folder, {outside[0]!r}. {AGAIN}")
        files = [folder / name for name in names]
    elif not weights.is_file():
        raise _no_weights(folder, kind)
    for file in files:
        _require_safetensors(file)


def _no_weights(folder: Path, kind: str) -> BundleError:
    found = next((file for file in PICKLED if (folder / file).is_file()), None)
    if found is None:
        return BundleError(
            f"{folder} has no weights. Expected model.safetensors, or "
            f"model.safetensors.index.json and the files that it names. {AGAIN}"
        )
    auto = "AutoModelForMaskedLM" if kind == "masked" else "AutoModelForCausalLM"
    new = f"{folder}-safetensors"
    code = (
        f"from transformers import {auto} as M, AutoTokenizer as T; "
        f"M.from_pretrained({str(folder)!r}).save_pretrained({new!r}); "
        f"T.from_pretrained({str(folder)!r}).save_pretrained({new!r})"
    )
    return BundleError(
        f"{folder} has pickled weights only ({found}). A pickle can run what it holds: it was not "
        "opened. Expected model.safetensors. If you trust who made it, convert it and give "
        f"{new}: python -c {shlex.quote(code)}"
    )


def _require_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise BundleError(
            f"The model in {path.parent} is incomplete: {path.name} is missing. {AGAIN}"
        )
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise BundleError(f"{path} is no whole safetensors file ({error}). {AGAIN}") from None


# -------------------------------------------------------------------------------------- fetching
def fetch_model(name: str, check: Callable[[Path], object]) -> tuple[Path, str]:
    """Fetch what a model's current commit needs; what the cache holds of it is not fetched again.

    Where the hub cannot be reached, the commit that was fetched last is taken, and that is said.

    Args:
        name: of a model of the hub, as gpt2 or org/name.
        check: raises BundleError for a folder whose small files are refused, before the weights
            are fetched.

    Returns:
        The folder in the hub's cache, and where it came from, for people.

    Raises:
        BundleError: `check` raised it, or the model has pickled weights only.
        FetchError: the hub cannot be reached within ANSWER_SECONDS and the cache has no such
            model; or the hub has none, or does not give it away.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        folder = _download(name, _ask(name), check)
    except BundleError:
        raise
    except RepositoryNotFoundError as error:  # one that asks for consent, too
        raise FetchError(
            f"The Hugging Face hub gives no such model away ({_reason(error)}). Check the name, "
            "or give a folder. For a model that is private or asks for consent, log in first: "
            "hf auth login"
        ) from error
    except Exception as error:  # of the connection; their classes differ from release to release
        if (folder := _cached(name)) is None:
            raise _unreachable(name, error) from error
        log.info(
            "The Hugging Face hub gave no answer (%s): taking the %s that was fetched before.",
            *(_reason(error), name),
        )
    return folder, f"{name} of the Hugging Face hub, commit {folder.name[:12]}"


def _ask(name: str) -> Any:
    """The hub's facts of a model: its commit, and the names and sizes of its files."""
    from huggingface_hub import HfApi

    answers: list[Any] = []

    def ask() -> None:
        try:
            api = HfApi(endpoint=_endpoint())
            answers.append(
                api.model_info(name, revision=MAIN, files_metadata=True, timeout=ANSWER_SECONDS)
            )
        except Exception as error:  # raised below
            answers.append(error)

    # No timeout of the library bounds the look-up of the host; a thread left behind does.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    if not answers:
        raise TimeoutError(f"no answer within {ANSWER_SECONDS} seconds")
    if isinstance(answers[0], Exception):
        raise answers[0]
    return answers[0]


def _download(name: str, facts: Any, check: Callable[[Path], object]) -> Path:
    from huggingface_hub import hf_hub_download

    sizes = {file.rfilename: file.size or 0 for file in facts.siblings}
    small, weights = _wanted(set(sizes))
    pickled = next((file for file in PICKLED if file in sizes), None)
    if pickled and not weights:
        raise BundleError(
            f"{name} has pickled weights only on the Hugging Face hub ({pickled}). A pickle can "
            "run what it holds: it was not fetched. Expected model.safetensors. Its makers can "
            "convert it: https://huggingface.co/spaces/safetensors/convert"
        )
    if "config.json" not in small:
        raise BundleError(
            f"{name} has no config.json on the Hugging Face hub, so that it is no model of "
            "transformers. Check the name."
        )
    place = {"revision": facts.sha, "endpoint": _endpoint(), "etag_timeout": ANSWER_SECONDS}
    log.info(
        "Taking %s of the Hugging Face hub, commit %s (%s MB).",
        *(name, facts.sha[:12], f"{sum(sizes[file] for file in small + weights) / 1e6:,.1f}"),
    )
    paths = [Path(hf_hub_download(name, file, **place)) for file in small]
    folder = paths[0].parent
    check(folder)
    for file in weights:
        hf_hub_download(name, file, **place)
    # The commit that the branch is at, as the cache remembers it; only now that it is whole here.
    branch = folder.parents[1] / "refs" / MAIN
    branch.parent.mkdir(exist_ok=True)
    branch.write_text(facts.sha, encoding="utf-8")
    return folder


def _wanted(names: set[str]) -> tuple[list[str], list[str]]:
    """Which of a model's files are fetched: no pickles, no code, nothing twice.

    Returns:
        The small files, and those of the weights.

    >>> _wanted({"config.json", "model.safetensors", "pytorch_model.bin", "model.py"})
    (['config.json'], ['model.safetensors'])
    """
    one, index = WEIGHTS
    shards = {name for name in names if re.fullmatch(r"model-[\w-]+\.safetensors", name)}
    weights = {one} if one in names else {index, *shards} if index in names else set()
    return sorted(names & {*SMALL, *TOKENIZERS}), sorted(weights)


def _cached(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(name, "config.json", revision=MAIN)
    return Path(path).parent if isinstance(path, str) else None


def _endpoint() -> str | None:
    """Read now: the library reads it once, when it is imported."""
    return os.environ.get("HF_ENDPOINT") or None


def _unreachable(name: str, error: Exception) -> FetchError:
    kinds = ["*.json", "*.txt", "*.model", "*.safetensors"]
    code = (
        "from huggingface_hub import snapshot_download as fetch; "
        f"fetch({name!r}, local_dir='model', allow_patterns={kinds})"
    )
    return FetchError(
        f"It could not be had from the Hugging Face hub ({_reason(error)}). On a machine with a "
        "connection, run the following, and give the folder `model` that it makes; or start from "
        f"a model that needs no connection, as --pretrained minilm. python -c {shlex.quote(code)}"
    )


def _reason(error: BaseException) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return f"the server answered {error.response.status_code}"
    while cause := error.__cause__ or error.__context__:
        error = cause
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return reason.splitlines()[0].rstrip(".")
