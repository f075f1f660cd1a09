"""The verb export: a run's classifier for programs without this package."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from tyro.conf import Positional

from ulmfit_app.cli.process import set_up_torch


@dataclass(frozen=True)
class ExportArguments:
    """Write a run's classifier as an ONNX model, from ids to calibrated probabilities, with its
    tokenizer, its labels and a runner that needs numpy, onnxruntime and spaCy or tokenizers."""

    run: Positional[Path]  # the run folder
    format: Literal["onnx"] = "onnx"
    # weights in a quarter of the bytes; faster on most CPUs, less exact, and for onnxruntime alone
    int8: bool = False
    # None: beside the run, NAME-onnx or NAME-onnx-int8
    out: Path | None = None


def export(argv: list[str]) -> None:
    """A run's classifier as ONNX."""
    arguments = tyro.cli(ExportArguments, args=argv, prog="python -m ulmfit_app export")
    set_up_torch()
    from ulmfit_app.inference.export import MODEL, export_onnx

    run = Path(os.path.normpath(arguments.run))
    kind = "onnx-int8" if arguments.int8 else "onnx"
    out = arguments.out or run.absolute().parent / f"{run.absolute().name}-{kind}"
    if arguments.out is None and not arguments.run.is_absolute():
        out = Path(os.path.relpath(out))
    export_onnx(run, out, arguments.int8)
    size = (out / MODEL).stat().st_size / 1e6
    print(f"{out / MODEL}: {size:.1f} MB. Try: python {shlex.quote(str(out / 'run.py'))} 'a text'")
