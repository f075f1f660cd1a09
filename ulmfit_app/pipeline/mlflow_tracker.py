"""MLflow: one of its runs for one of ours, in the store that MLFLOW_TRACKING_URI names, else in
mlflow.db beside the run's folder."""

import os
import time
from pathlib import Path
from typing import Any

from ulmfit_app.pipeline.tracker import Tracker, folder_name

EXPERIMENT = "ulmfit"  # of MLflow, where MLFLOW_EXPERIMENT_NAME names no other
MOST_PARAMS, MOST_METRICS = 100, 1000  # in one call
LONGEST_PARAM = 500  # characters, as older servers take them


class MLflow(Tracker):
    """A metric per number, such as classifier/valid_loss, with a step per epoch of all phases; the
    settings as parameters; the report among the artifacts.

    The id of MLflow's run is kept in the folder, so that the next command goes on with it.
    """

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self._client: Any = None
        self._run = ""
        self._last: dict[str, int] = {}  # name -> step

    def write(self, section: str, rows: list[dict[str, float]]) -> None:
        """As `Tracker` has it."""
        from mlflow.entities import Metric

        self._connect()
        now, new = time.time_ns() // 1_000_000, []
        for step, row in enumerate(rows, start=1):
            for name, value in row.items():
                named = f"{folder_name(section)}/{name}"
                if named not in self._last:
                    there = self._client.get_metric_history(self._run, named)
                    self._last[named] = max((each.step for each in there), default=0)
                if step > self._last[named]:
                    new.append(Metric(named, value, now, step))
        for begin in range(0, len(new), MOST_METRICS):
            self._client.log_batch(self._run, metrics=new[begin : begin + MOST_METRICS])
        self._last |= {each.key: each.step for each in new}

    def _connect(self) -> None:
        """Find the run, or make one, where that was not done yet."""
        if self._run:
            return
        from mlflow import MlflowClient
        from mlflow.entities import Param

        beside = self.folder.resolve().parent
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{beside / 'mlflow.db'}"
        self._client = MlflowClient(uri)
        facts = self.read_facts()
        if facts.get("uri") == uri:
            self._client.update_run(facts["run"], status="RUNNING")
            self._run = facts["run"]
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        if found is None:
            # A server has a place of its own.
            own = (beside / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
            experiment = self._client.create_experiment(name, artifact_location=own)
        else:
            experiment = found.experiment_id
        run = self._client.create_run(experiment, run_name=self.folder.resolve().name)
        params = [Param(name, value[:LONGEST_PARAM]) for name, value in self.settings.items()]
        for begin in range(0, len(params), MOST_PARAMS):
            part = params[begin : begin + MOST_PARAMS]
            self._client.log_batch(run.info.run_id, params=part)
        self.note(uri=uri, run=run.info.run_id)
        self._run = run.info.run_id

    def forget(self) -> None:
        """As `Tracker` has it: numbers may have arrived although no answer did."""
        self._run, self._last = "", {}

    def close(self, status: str, report: Path | None) -> None:
        """As `Tracker` has it."""
        self._connect()
        if report is not None:
            for name in ("report.html", "metrics.json"):
                self._client.log_artifact(self._run, str(report / name))
        self._client.set_terminated(self._run, status)
