"""TensorBoard's event files, in RUN/tensorboard: tensorboard --logdir RUN, or a folder of runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ulmfit_app.pipeline.tracker import Tracker, folder_name

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Tracker):
    """A folder of event files per training, a step per epoch of all phases.

    What a killed process has written stays, and is read before more is written: no step is there
    twice. torch's `purge_step` would leave that to whoever reads.
    """

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self._writers: dict[str, SummaryWriter] = {}
        self._last: dict[str, dict[str, int]] = {}  # section -> name -> step

    def write(self, section: str, rows: list[dict[str, float]]) -> None:
        """As `Tracker` has it."""
        from torch.utils.tensorboard import SummaryWriter

        folder = self.place / folder_name(section)
        if section not in self._writers:
            if not self.read_facts():
                self.note()
            self._last[section] = _last_steps(folder)
            self._writers[section] = SummaryWriter(folder)
        writer, last = self._writers[section], self._last[section]
        if rows and not last:
            self._describe(writer, rows[0])
        for step, row in enumerate(rows, start=1):
            for name, value in row.items():
                if step > last.get(name, 0):
                    writer.add_scalar(name, value, step)
                    last[name] = step
        writer.flush()

    def _describe(self, writer: "SummaryWriter", row: dict[str, float]) -> None:
        from torch.utils.tensorboard.summary import hparams

        lines = [f"| {name} | {value} |" for name, value in self.settings.items()]
        writer.add_text("settings", "\n".join(["| setting | value |", "| --- | --- |", *lines]))
        # For the page HPARAMS, in this training's own folder: `add_hparams` makes one beside it.
        for part in hparams(self.settings, dict.fromkeys(row, 0.0)):
            writer.file_writer.add_summary(part)

    def forget(self) -> None:
        """As `Tracker` has it."""
        writers, self._writers = self._writers, {}
        for writer in writers.values():
            writer.close()

    def close(self, status: str, report: Path | None) -> None:
        """As `Tracker` has it."""
        self.forget()


def _last_steps(folder: Path) -> dict[str, int]:
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    if not folder.is_dir():
        return {}
    found = EventAccumulator(str(folder), {SCALARS: 0}).Reload()
    return {name: found.Scalars(name)[-1].step for name in found.Tags()[SCALARS]}
