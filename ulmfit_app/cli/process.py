"""What the command line sets in its own process. Importing the package sets nothing."""

import os
import warnings


def set_up_torch() -> None:
    """Make torch fast on a CPU and quiet. Call it once, before torch first computes."""
    # fastai decorates with torch.jit.script at import; the user can do nothing about it.
    warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)
    # cuDNN takes no bf16 weights in one piece, and torch says so for each text on a GPU.
    warnings.filterwarnings("ignore", "RNN module weights are not part of single", UserWarning)

    from ulmfit_app.hardware import set_up_cpu

    set_up_cpu()


def start() -> None:
    """Say that something happens, since imports take seconds, and set up torch and figures."""
    print("Starting …", flush=True)
    set_up_torch()
    set_up_figures()


def set_up_figures() -> None:
    """Draw into files, without a screen, unless MPLBACKEND says where figures go.

    Not by that variable: processes that this one starts, such as a notebook's, would inherit it.
    """
    if "MPLBACKEND" not in os.environ:
        import matplotlib

        matplotlib.use("Agg")
