"""The verb compare-served: what a server's log says about two versions of a model."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import Positional


@dataclass(frozen=True)
class CompareServedArguments:
    """Compare two versions of a model that `serve RUN --canary RUN2 --log LOG` served side by
    side: which labels they give how often, how sure they are, and how fast."""

    log: Positional[Path]  # what `serve --log` wrote
    feedback: Path | None = None  # what `serve --feedback` wrote meanwhile
    # ids of the two, where the log has answers of more
    models: tuple[str, str] | None = None


def compare_served(argv: list[str]) -> None:
    """Where two models that were served side by side differ."""
    arguments = tyro.cli(
        CompareServedArguments, args=argv, prog="python -m ulmfit_app compare-served"
    )
    from ulmfit_app.serving import compared, comparing

    found = comparing.compare_served(arguments.log, arguments.feedback, arguments.models)
    print(compared.format_comparison(found))
