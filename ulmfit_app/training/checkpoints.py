"""The files of a training in progress."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from fastai.learner import Learner
from fastai.text.models.awdlstm import AWD_LSTM
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from data_scripts.files import replacing
from ulmfit_app.models.bundle import unique_tensors
from ulmfit_app.training.recipes import Phase


@dataclass
class _Position:
    """How far training has come."""

    phase: int = 0
    epoch: int = 0  # of the phase
    batch: int = 0  # of the epoch: so many are done
    loss_sum: float = 0.0  # over them
    pct_train: float = 0.0  # the schedule's position
    seconds: float = 0.0  # spent in this epoch


def _encoder(model: torch.nn.Module) -> AWD_LSTM:
    return next(module for module in model.modules() if isinstance(module, AWD_LSTM))


class _Checkpoints:
    """The files of a training in progress: `checkpoint.safetensors` to go on from, `best.safetensors` to end with.

    `steady.safetensors` is a checkpoint at the end of a phase of constant rate, kept so that a longer training can go on
    from there. A checkpoint that another key wrote, another training that is, is never read.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path, self.best, self.key = (
            folder / "checkpoint.safetensors",
            folder / "best.safetensors",
            key,
        )
        self.steady = folder / "steady.safetensors"

    def keep_steady(self) -> None:
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

    def save(self, learn: Learner, position: _Position, history: list[dict]) -> None:
        rnn = _encoder(learn.model)
        tensors = {f"model.{name}": tensor for name, tensor in unique_tensors(learn.model).items()}
        scalars: list[dict] = []
        for i, state in enumerate(learn.opt.state_dict()["state"]):
            scalars.append({k: v for k, v in state.items() if not torch.is_tensor(v)})
            tensors |= {
                f"opt.{i}.{k}": v.detach().cpu().contiguous()
                for k, v in state.items()
                if torch.is_tensor(v)
            }
        for layer, pair in enumerate(rnn.hidden):
            for part, state in zip("hc", pair, strict=True):
                tensors[f"hidden.{layer}.{part}"] = state.detach().cpu().contiguous()
        tensors["rng.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        facts = {
            "key": self.key,
            "position": asdict(position),
            "history": history,
            "optimizer": scalars,
            "scaler": learn.scaler.state_dict() if getattr(learn, "scaler", None) else None,
        }
        with replacing(self.path) as draft:
            save_file(tensors, draft, metadata={"training": json.dumps(facts)})

    def facts(self, path: Path | None = None) -> dict | None:
        """What a checkpoint of this training says beside its tensors; None where there is none."""
        path = path or self.path
        if not path.is_file():
            return None
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["training"])
        return facts if facts["key"] == self.key else None

    def load_model(self, learn: Learner) -> None:
        tensors = load_file(self.path)
        _load_state(
            learn.model,
            {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")},
        )

    def load_optimizer(self, learn: Learner, facts: dict) -> None:
        """What a Learner holds beside its weights, to be called when its epoch has begun."""
        tensors = load_file(self.path)
        for i, (param, *_) in enumerate(learn.opt.all_params()):
            state = dict(facts["optimizer"][i])
            prefix = f"opt.{i}."
            state |= {
                k.removeprefix(prefix): v.to(param.device)
                for k, v in tensors.items()
                if k.startswith(prefix)
            }
            learn.opt.state[param] = state
        if facts["scaler"] is not None:
            learn.scaler.load_state_dict(facts["scaler"])
        if facts["position"]["batch"]:  # an epoch begins with a hidden state of zeros
            rnn = _encoder(learn.model)
            device = next(rnn.parameters()).device
            layers = range(rnn.n_layers)
            rnn.hidden = [
                tuple(tensors[f"hidden.{layer}.{part}"].to(device) for part in "hc")
                for layer in layers
            ]
            rnn.bs = rnn.hidden[0][0].shape[1]
        torch.set_rng_state(tensors["rng.cpu"])
        if "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"])

    def save_best(self, learn: Learner) -> None:
        with replacing(self.best) as draft:
            save_file(unique_tensors(learn.model), draft)

    def load_best(self, learn: Learner) -> None:
        _load_state(learn.model, load_file(self.best))

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.best.unlink(missing_ok=True)


def _load_state(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    # Not strict, because a tied weight is stored under one of its names only.
    model.load_state_dict(tensors, strict=False)


def finish(folder: Path) -> None:
    """Remove a training's checkpoints, once its result is saved."""
    _Checkpoints(folder, "").remove()
