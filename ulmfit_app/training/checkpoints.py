"""The files of a training in progress.

fastai's `save` and `load` are pickles, keep no hidden state, no position in the epoch and no
random state, and `torch.save` overwrites the only good file in place.
"""

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from fastai.learner import Learner
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from data_scripts.files import replacing
from ulmfit_app.models.bundle import unique_tensors
from ulmfit_app.training import processes
from ulmfit_app.training.data_parallel import draw_apart, gather_carried, own_rows
from ulmfit_app.training.recipes import Phase

CARRIED = "carried."  # before the names of what modules carry from batch to batch


@dataclass
class Position:
    """How far training has come."""

    phase: int = 0
    epoch: int = 0  # of the phase
    batch: int = 0  # of the epoch: so many are done
    loss_sum: float = 0.0  # over them
    pct_train: float = 0.0  # the schedule's position
    seconds: float = 0.0  # spent in this epoch
    norm_sum: float = 0.0  # over the gradients of this epoch's steps
    norms: float = 0.0  # so many of them
    start_loss: float | None = None  # of the training's first step
    warnings: list[str] = field(default_factory=list)  # said in this epoch

    @property
    def mean_loss(self) -> float:
        """Of the epoch's steps."""
        return self.loss_sum / max(self.batch, 1)

    @property
    def mean_norm(self) -> float:
        """Of the epoch's gradients, before clipping; NaN where there was none."""
        return self.norm_sum / self.norms if self.norms else math.nan

    def end_epoch(self) -> None:
        """Nothing is done of the next epoch."""
        self.epoch, self.batch, self.loss_sum, self.seconds = self.epoch + 1, 0, 0.0, 0.0
        self.norm_sum, self.norms, self.warnings = 0.0, 0.0, []


class Checkpoints:
    """`checkpoint.safetensors` to go on from, `best.safetensors` to end with.

    `steady.safetensors` is a checkpoint at the end of a phase of constant rate, kept so that a
    longer training can go on from there. A checkpoint that another key wrote, another training
    that is, is never read. A model's modules give what they carry from batch to batch, such as a
    hidden state, by `carried_state()`, and take it by `carry_on(state)`.

    Args:
        folder: of the files.
        key: a hash of everything the training's result depends on.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path, self.best = folder / "checkpoint.safetensors", folder / "best.safetensors"
        self.steady, self.key = folder / "steady.safetensors", key
        self._kept: dict[str, torch.Tensor] = {}  # the best weights, where no file has them yet

    def keep_steady(self) -> None:
        """Keep the checkpoint of this moment for a longer training."""
        with replacing(self.steady) as draft:
            shutil.copyfile(self.path, draft)

    def go_back_to_steady(self, phases: Sequence[Phase]) -> None:
        """Where a longer steady phase is asked for than the one that ended, go on from its end."""
        facts = self.facts(self.steady)
        if facts is None:
            return
        position = facts["position"]
        if position["epoch"] < phases[position["phase"]].epochs:
            latest = self.facts()
            # A checkpoint within the longer steady phase is further on.
            if latest is None or latest["position"]["phase"] != position["phase"]:
                with replacing(self.path) as draft:
                    shutil.copyfile(self.steady, draft)
                self.best.unlink(missing_ok=True)

    def save(self, learn: Learner, position: Position, history: list[dict]) -> None:
        """Write all that a training needs to end as if it had not been interrupted.

        All processes of the training have to call it, and the first one writes.
        """
        # First of all: the history that is written says that they are there.
        if self._kept:
            _save(self.best, self._kept)
            self._kept = {}
        carried = gather_carried(learn)
        draws = processes.gather(torch.get_rng_state())
        if processes.rank():
            return
        tensors = {f"model.{name}": part for name, part in unique_tensors(learn.model).items()}
        scalars: list[dict] = []
        for i, state in enumerate(learn.opt.state_dict()["state"]):
            scalars.append({k: v for k, v in state.items() if not torch.is_tensor(v)})
            tensors |= {f"opt.{i}.{k}": _stored(v) for k, v in state.items() if torch.is_tensor(v)}
        tensors |= {f"{CARRIED}{name}": part for name, part in carried.items()}
        tensors |= {_draws_of(rank): state for rank, state in enumerate(draws)}
        if torch.cuda.is_available():
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        facts = {
            "key": self.key,
            "position": asdict(position),
            "history": history,
            "optimizer": scalars,
            "scaler": learn.scaler.state_dict() if getattr(learn, "scaler", None) else None,
        }
        _save(self.path, tensors, {"training": json.dumps(facts)})

    def facts(self, path: Path | None = None) -> dict | None:
        """What a checkpoint of this training says beside its tensors; None where there is none."""
        path = path or self.path
        if not path.is_file():
            return None
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["training"])
        return facts if facts["key"] == self.key else None

    def load_model(self, learn: Learner) -> None:
        """Put the checkpoint's weights into the model."""
        _load_state(learn.model, _with_prefix(load_file(self.path), "model."))

    def load_optimizer(self, learn: Learner, facts: dict) -> None:
        """Restore what a Learner holds beside its weights; to be called when its epoch has
        begun."""
        tensors = load_file(self.path)
        for i, (param, *_) in enumerate(learn.opt.all_params()):
            of_param = _with_prefix(tensors, f"opt.{i}.").items()
            state = facts["optimizer"][i] | {k: v.to(param.device) for k, v in of_param}
            learn.opt.state[param] = state
        # Empty where a bf16 training saved it; and a training may go on in another precision.
        if facts["scaler"] and getattr(learn, "scaler", None):
            learn.scaler.load_state_dict(facts["scaler"])
        if facts["position"]["batch"]:  # an epoch begins with nothing carried
            for name, module in learn.model.named_modules():
                if hasattr(module, "carry_on"):
                    module.carry_on(own_rows(_with_prefix(tensors, f"{CARRIED}{name}:")))
        _set_random_state(tensors)

    def load_random_state(self) -> None:
        """Let random numbers go on from where they had come to."""
        _set_random_state(load_file(self.path))

    def keep_best(self, learn: Learner) -> None:
        """Keep the weights of this moment as the best; the next checkpoint writes them."""
        if processes.rank():
            return
        tensors = unique_tensors(learn.model)
        self._kept = {name: tensor.clone() for name, tensor in tensors.items()}

    def load_best(self, learn: Learner) -> None:
        """Put the best weights into the model, which is the first process's then."""
        if processes.rank():
            return
        _load_state(learn.model, self._kept or load_file(self.best))

    def remove(self) -> None:
        """Remove what a finished training does not need; what a longer one goes on from stays."""
        self.path.unlink(missing_ok=True)
        self.best.unlink(missing_ok=True)


def finish(folder: Path) -> None:
    """Remove a training's checkpoints, once its result is saved."""
    Checkpoints(folder, "").remove()


def _save(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    with replacing(path) as draft:
        try:
            save_file(tensors, draft, metadata)
        except SafetensorError as error:
            # A full disk, say, which safetensors tells in the words of Rust, "(os error 28)".
            number = re.search(r"\(os error (\d+)\)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code), str(path)) from error


def _draws_of(rank: int) -> str:
    """What the state of a process's random numbers is called."""
    return f"rng.cpu.{rank}" if rank else "rng.cpu"


def _set_random_state(tensors: dict[str, torch.Tensor]) -> None:
    state = tensors.get(_draws_of(processes.rank()))
    if state is None:  # fewer processes wrote the checkpoint
        draw_apart(tensors["rng.cpu"])
        return
    torch.set_rng_state(state)
    if "rng.cuda" in tensors and not processes.rank():
        torch.cuda.set_rng_state(tensors["rng.cuda"])


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous()


def _with_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    found = ((name, part) for name, part in tensors.items() if name.startswith(prefix))
    return {name.removeprefix(prefix): part for name, part in found}


def _load_state(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    # Not strict, because a tied weight is stored under one of its names only.
    model.load_state_dict(tensors, strict=False)
