"""The verb search: settings that suit a data set, found by trying."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ulmfit_app.cli.outputs import folder_of, name_of, require_outside
from ulmfit_app.cli.process import start
from ulmfit_app.cli.settings import RunSettings, read_settings
from ulmfit_app.config import AugmentationSettings, Settings
from ulmfit_app.errors import SettingError
from ulmfit_app.experiments.search_journal import PrunerName, SamplerName
from ulmfit_app.experiments.spaces import Space, read_space

if TYPE_CHECKING:
    from ulmfit_app.experiments.search import Search
    from ulmfit_app.pipeline.run import Run


@dataclass(frozen=True, kw_only=True)
class SearchArguments(RunSettings):
    """Search for settings: trials with other rates, dropouts, epochs and so on, each an ordinary
    run, compared on the validation part. The best one is trained again with new seeds beside the
    command's own settings, and alone scored on the test split. Needs pip install
    'ulmfit-app[search]'.

    The same command continues after an interruption, and several at once share the trials. With
    --folds K, all of K folds are validated on.
    """

    fewest_seeds: ClassVar[int] = 0  # as `read_settings` takes it

    augment: AugmentationSettings
    # a TOML file: a table per section, a setting per line, such as [classifier] and below it
    # epochs = {low = 4, high = 12} or plan = ["full", "published"]; None: by the number of labels,
    # written to OUT/space.toml
    space: Path | None = None
    trials: int = 30  # in all; the first has the settings of this command
    # no trial begins that would not end in so many minutes; None: no bound
    minutes: float | None = None
    # tpe: tree-structured Parzen estimators (Bergstra et al. 2011); gp: a Gaussian process
    sampler: SamplerName = "tpe"
    # ends trials whose validation loss is worse than others' after as many epochs
    pruner: PrunerName = "median"
    # new seeds, with which the best settings and this command's are trained again
    seeds: int = 3
    # folders of finished searches on the same data, whose best so far is drawn beside this one's
    beside: tuple[Path, ...] = ()
    # address of a Dask scheduler, whose workers carry out the trials: pip install
    # 'ulmfit-app[cluster]'; None: processes of this machine
    cluster: str | None = None
    # the folder of the journal and the runs; None: experiments/search-DATA-PRESET
    out: Path | None = None


def search(argv: list[str]) -> None:
    """Search for settings, and report the run with the best."""
    prog = "python -m ulmfit_app search"
    preset, arguments, settings = read_settings(SearchArguments, argv, prog, "search")
    default = Path("experiments") / f"search-{name_of(settings.data.source)}-{preset}"
    out = arguments.out or default
    require_outside(out, folder_of(settings.data), default)
    if arguments.trials < 1:
        raise SettingError(f"--trials must be 1 or more, not {arguments.trials}.")
    space = None if arguments.space is None else read_space(arguments.space, settings)
    if space is not None and arguments.sampler == "grid":
        space.points()
    start()
    print(*_carry_out(out, settings, preset, space, arguments), sep="\n")


def _carry_out(
    out: Path, settings: Settings, preset: str, space: Space | None, arguments: SearchArguments
) -> list[str]:
    from ulmfit_app.executors import open_executor
    from ulmfit_app.experiments.default_space import default_space
    from ulmfit_app.experiments.search import Search, carry_out
    from ulmfit_app.experiments.search_journal import FileLock, require_optuna
    from ulmfit_app.experiments.search_plan import (
        How,
        begin_first,
        fix_metric,
        require_same_search,
        require_starts,
    )
    from ulmfit_app.experiments.search_result import conclude, read_errors
    from ulmfit_app.experiments.search_trial import LOCKS

    require_optuna()
    if out.exists() and not out.is_dir():
        raise SettingError(f"--out {out} is no folder. Name one: --out experiments/NAME")
    for folder in arguments.beside:
        read_errors(folder)  # refused now, and not after all trials
    if space is None and (out / "space.toml").is_file():
        space = read_space(out / "space.toml", settings)
    settings = settings if space is None else fix_metric(settings, space)
    require_same_search(out, settings)
    if space is not None:
        require_starts(settings, space)
    # Several commands may be given at once.
    with FileLock(out / LOCKS / "beginning"):
        first = begin_first(out, settings, preset)
    space = space or default_space(settings, first.record.counts["train"])
    if arguments.sampler == "grid":
        space.points()
    with open_executor(arguments.cluster, out) as executor:
        bounds = arguments.trials, arguments.minutes
        how = How(*bounds, arguments.sampler, arguments.pruner, executor.slots())
        found = Search(out, settings, preset, space, first, how)
        _describe(first, found)
        carry_out(found, executor)
        with FileLock(out / LOCKS / "concluding"):
            concluded = conclude(found, executor, arguments.seeds, list(arguments.beside))
    return _say(concluded, out)


def _describe(first: "Run", found: "Search") -> None:
    """Print what will be searched, before it is."""
    data, counts = first.record.data, first.record.counts
    source = first.record.settings.data.source
    print(f"Data: {source}, from {data.origin}; {len(data.labels)} classes.")
    print(*first.record.data_notes, *first.record.selection_notes, sep="\n")
    print(
        f"Texts: {counts['train']:,} to train on, {counts['valid']:,} to validate; the test split "
        "is scored once, by the best trial."
    )
    drawn, how = found.space.to_json(), found.how
    print("Space:", *(f"  {name}: {_spell(values)}" for name, values in drawn.items()), sep="\n")
    ended = sum(each.state.is_finished() for each in found.trials())
    done = f"{ended} of them ended before; " if ended else ""
    print(
        f"Trials: {how.trials}, {done}{how.at_once} at once, sampler {how.sampler}, pruner "
        f"{how.pruner}. The journal and the runs: {found.folder}"
    )
    if how.sampler == "grid" and (size := len(found.space.points())) != how.trials - 1:
        print(f"The grid has {size:,} points; beside them, trial 0 has the command's settings.")
    print("Interrupt whenever you like: the same command continues.")


def _spell(values: Any) -> str:
    """What a setting is drawn from, for people."""
    if isinstance(values, list):
        return ", ".join(map(str, values))
    if not isinstance(values, dict):
        return f"{values}, fixed"
    log = ", logarithmic" if values.get("log") else ""
    step = f" in steps of {values['step']:g}" if "step" in values else ""
    return f"{values['low']:g} to {values['high']:g}{step}{log}"


def _say(found: dict[str, Any], out: Path) -> list[str]:
    """What a search found, in sentences."""
    best, defaults, metric = found["best"], found["defaults"], found["metric"].replace("_", " ")
    states = ", ".join(f"{n} {state}" for state, n in found["states"].items())
    lines = [f"\nTrials: {states}. Errors are 1 - {metric}, on the validation part."]
    lines += [f"Trial {each['trial']}, not carried out: {each['reason']}"
              for each in found["trials"] if each["state"] == "infeasible"][:3]  # fmt: skip
    lines.append(
        f"Best: trial {best['trial']}, error {100 * best['error']:.2f} %. This command's own "
        f"settings, trial 0: {_percent(defaults.get('error'))}."
    )
    if "selected_on" in found:
        lines.append(
            f"On the {found['selected_on']['n']:,} validation texts the best errs less "
            f"{_points(found['selected_on'])}: too good, since it was selected on these very "
            "texts."
        )
    else:
        lines.append("No trial was better than this command's own settings.")
    luck = found["luck"]
    if luck["expected_best"] is not None:
        lines.append(
            f"Luck: the best of {luck['trials']} random trials is expected at "
            f"{100 * luck['expected_best']:.2f} %, by the {luck['drawn_at_random']} trials that "
            "were drawn at random (Dodge et al. 2019)."
        )
    if "again" in found:
        again = found["again"]
        means = {side: sum(each) / len(each) for side, each in again["errors"].items()}
        lines.append(
            f"Trained again with {len(again['seeds'])} new seeds, errors are "
            f"{100 * means['best']:.2f} % with the best settings and "
            f"{100 * means['defaults']:.2f} % with the command's: on {again['n']:,} texts the "
            f"best err less {_points(again)}."
        )
    if found["importances"]:
        shares = (f"{name} {share:.2f}" for name, share in found["importances"].items())
        lines.append(f"What explains the differences (fANOVA): {', '.join(shares)}.")
    test = found["test"]
    low, high = test["accuracy_ci95"]
    lines += [
        f"Test, once, of the best alone: accuracy {100 * test['accuracy']:.1f} % "
        f"({100 * low:.1f} to {100 * high:.1f}), n = {test['n']:,} ({test['name']}).",
        f"The best run: {found['run']}; its report: {found['run']}/report/report.html",
        f"Its command: {found['command']}",
        f"Written: {out / 'search.json'} {out / 'trials.csv'} {out / 'space.toml'} "
        f"{out / 'figures'}",
    ]
    return lines


def _percent(share: float | None) -> str:
    return "not trained" if share is None else f"error {100 * share:.2f} %"


def _points(compared: dict[str, float]) -> str:
    """By how much the best errs less, with the interval."""
    low, high = f"{compared['low']:+.2f}", f"{compared['high']:+.2f}"
    return f"by {compared['difference']:+.2f} points (95 % interval {low} to {high})"
