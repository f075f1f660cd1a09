"""Stages that another run has carried out already: a stage's identity is its key, wherever it
lies."""

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from data_scripts.files import replacing, unless_made
from ulmfit_app.files import link_file
from ulmfit_app.pipeline.run import Run
from ulmfit_app.run_folder import MARK, find_part, read_mark

log = logging.getLogger(__name__)


def adopt(run: Run, name: str, others: Iterable[Path]) -> bool:
    """Take a stage's result from a run that has it, without a second copy where the disk can.

    Args:
        run: gets the result; what it had begun itself is kept, and nothing taken then.
        name: of the stage, such as lm.
        others: folders of runs.

    Returns:
        Whether the stage is finished now.
    """
    stage, place = run.stages[name], run.work / name
    if run.is_finished(name):
        return True
    if stage.is_begun(place):
        return False
    for other in others:
        source = find_part(other, name)
        if source.resolve() == place.resolve() or not stage.is_finished(source):
            continue
        shutil.rmtree(place, ignore_errors=True)
        with unless_made(place), replacing(place) as draft:
            for file in (*read_mark(source / MARK)["files"], MARK):
                (draft / file).parent.mkdir(parents=True, exist_ok=True)
                link_file(source / file, draft / file)
        log.info("Stage %s: taken from %s, where it is the same.", name, other)
        return True
    return False
