"""What run.json says: everything that was decided before a run began, and nothing that is read
back."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_scripts.files import write_json
from ulmfit_app.config import Settings
from ulmfit_app.errors import UserError
from ulmfit_app.hardware import resolve_precision
from ulmfit_app.models.bundle import versions
from ulmfit_app.models.start import Start
from ulmfit_app.run_folder import FORMAT, RECORD, damaged
from ulmfit_app.settings_json import from_json, to_json
from ulmfit_app.training.recipes import Plan

YES, NO = "yes", "no"  # in the columns of data/selection.csv
PLANNING = "planning_seconds"
DECIDED = "+"  # in the identity of a classifier, before what only its decision depends on


def trained_key(key: str) -> str:
    """What of a classifier's identity its weights depend on, without how it decides.

    >>> trained_key("1f3a+09bc"), trained_key("1f3a")
    ('1f3a', '1f3a')
    """
    return key.partition(DECIDED)[0]


@dataclass(frozen=True)
class DirectionPlan:
    """One direction of a run.

    Args:
        pretrained: the name or folder that its language model starts from.
        start: what was found there; its facts alone once the run is opened again.
        plan: of its classifier.
        plan_reason: why it is this one, in sentences.
    """

    pretrained: str
    start: Start
    plan: Plan
    plan_reason: str

    def named(self, thing: str, joint: str = "-") -> str:
        """The name of one of its things, such as lm and lm-backward."""
        forward = self.start.direction == "forward"
        return thing if forward else f"{thing}{joint}{self.start.direction}"

    def to_json(self) -> dict[str, Any]:
        """It as JSON writes it."""
        return {
            "pretrained": self.pretrained,
            "start": self.start.facts(),
            "plan": self.plan.to_json(),
            "plan_reason": self.plan_reason,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "DirectionPlan":
        """The inverse of `to_json`."""
        start, plan = Start.from_facts(values["start"]), Plan.from_json(values["plan"])
        return cls(values["pretrained"], start, plan, values["plan_reason"])


@dataclass(frozen=True)
class DataRecord:
    """The checked table of a run, whose rows lie in data/.

    Args:
        origin: what served the data, for people.
        test_name: what the texts of split test are, for people.
        labels: the classes in order.
        n_rows: of the table.
        source_sha256: of the file or folder that was read; None for a data set known by name.
        table_sha256: of data/table.csv, once it is written.
        text_column: of the source file, that held the texts; None where there is none.
        multilabel: whether a text may have several labels.
        costs: of mistakes, as `Decision` has them, for the labels in order.
        groups: columns of whom a text is from or about.
        time: the column of dates or times; None where none is named.
    """

    origin: str
    test_name: str
    labels: list[str]
    n_rows: int
    source_sha256: str | None
    table_sha256: str | None = None
    text_column: str | None = None
    multilabel: bool = False
    costs: list[list[float]] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    time: str | None = None


@dataclass(frozen=True)
class Teacher:
    """A trained run whose answers this one learns from.

    Args:
        run: its folder.
        fingerprint: of its classifiers; another one gives other answers.
    """

    run: str
    fingerprint: str


@dataclass(frozen=True)
class Parent:
    """The finished run that an updated one goes on from.

    Args:
        run: its folder.
        fingerprint: of its language models and classifiers, which lie in the updated run's folder
            too, in parent/.
        n_valid: texts that it validated on.
        seconds: that its training took.
        recipe: settings of the first run, as JSON writes them: by them, the same could be trained
            from the start.
    """

    run: str
    fingerprint: str
    n_valid: int
    seconds: float
    recipe: dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """What a run was made with, and what is to be in its folder.

    Args:
        settings: with the bounds that were found for `minutes`.
        requested: the settings and minutes that were asked for, as JSON writes them.
        preset: the name of the preset that they were derived from, for people.
        data: of its table.
        counts: texts by what they are used as: train, valid, test, unlabelled.
        lm_epochs: of the language model.
        data_notes, selection_notes: what was done to the data, and left out of it, in sentences.
        directions: the forward one's, then perhaps the backward one's.
        keys: the identity of each stage's result.
        teachers: in the order of the settings.
        parent: of an updated run.
        planning_seconds: that deciding took; 0 where no minutes were asked for.
    """

    settings: Settings
    requested: dict[str, Any]
    preset: str
    data: DataRecord
    counts: dict[str, int]
    lm_epochs: int
    data_notes: list[str]
    selection_notes: list[str]
    directions: list[DirectionPlan]
    keys: dict[str, str]
    teachers: list[Teacher] = field(default_factory=list)
    parent: Parent | None = None
    planning_seconds: float = 0.0

    def write(self, folder: Path) -> None:
        """Write run.json into a folder, with the versions and the precision of this moment."""
        values = {
            "format": FORMAT,
            **{name: getattr(self, name) for name in _PLAIN},
            "settings": to_json(self.settings),
            "data": asdict(self.data),
            "directions": [each.to_json() for each in self.directions],
            **({"teachers": [asdict(each) for each in self.teachers]} if self.teachers else {}),
            **({"parent": asdict(self.parent)} if self.parent else {}),
            **({PLANNING: self.planning_seconds} if self.planning_seconds else {}),
            # Facts, which change no result's identity.
            "versions": versions(),
            "precision": resolve_precision(self.settings.precision),
        }
        write_json(folder / RECORD, values)

    @classmethod
    def understand(cls, values: dict[str, Any], run: Path) -> "RunRecord":
        """The record that run.json's values are.

        Raises:
            RunFolderError: they are not those of a record.
        """
        try:
            requested = values["requested"]
            # Settings that this version has and the one before had not are at their defaults, as
            # in a command without them.
            asked = to_json(from_json(requested["settings"]))
            return cls(
                **{name: values[name] for name in _PLAIN if name != "requested"},
                requested={"settings": asked, "minutes": requested["minutes"]},
                settings=from_json(values["settings"]),
                data=DataRecord(**values["data"]),
                directions=[DirectionPlan.from_json(each) for each in values["directions"]],
                teachers=[Teacher(**each) for each in values.get("teachers", [])],
                parent=Parent(**values["parent"]) if "parent" in values else None,
                planning_seconds=float(values.get(PLANNING, 0)),
            )
        except (AttributeError, KeyError, TypeError, UserError, ValueError) as error:
            raise damaged(run, error) from None


_PLAIN = (
    "requested",
    "preset",
    "counts",
    "lm_epochs",
    "data_notes",
    "selection_notes",
    "keys",
)
