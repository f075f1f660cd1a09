"""The experiment compress, which takes a run that is there, and no settings."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import Positional

from ulmfit_app.cli.outputs import place_outside_run
from ulmfit_app.cli.process import start
from ulmfit_app.cli.teaching import require_one_label

COMPRESS = "compress"


@dataclass(frozen=True)
class CompressArguments:
    """What makes a trained run smaller and faster, and what that costs: its teacher, the run, the
    run in int8 and as ONNX, and pruned. Accuracy on the validation split and changed labels, size
    on disk, ms for one text of 200 tokens, texts/s of 512.

    The same command continues after an interruption with the pruned runs that are left.
    """

    run: Positional[Path]  # the run folder
    # of the units of each layer, that are removed: a pruned run for each, trained for an epoch
    shares: tuple[float, ...] = (0.25, 0.5)
    out: Path | None = None  # of the table and the pruned runs; None: experiments/compress-RUNNAME


def compress(argv: list[str]) -> None:
    """Measure what makes a run smaller and faster."""
    prog = f"python -m ulmfit_app experiment {COMPRESS}"
    arguments = tyro.cli(CompressArguments, args=argv, prog=prog)
    out = place_outside_run(arguments.run, arguments.out, COMPRESS)

    start()
    require_one_label(arguments.run, "experiment compress counts right labels")
    from ulmfit_app.experiments.compress import format_compress, run_compress
    from ulmfit_app.hardware import bound_threads

    bound_threads()
    print(format_compress(*run_compress(arguments.run, out, arguments.shares)))
    print("Written:", *sorted(out.glob(f"{COMPRESS}*.*")))
