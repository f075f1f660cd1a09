"""Do the tests notice a wrong line? Changes one at a time in a module, and runs its tests on it.

A mutant is the package with one such change (DeMillo, Lipton and Sayward 1978, "Hints on Test Data
Selection"). Tests that fail have killed it. One that survives either does the same as before, or
shows a gap in the tests. Run by hand:

    python tests/mutants.py training/recipes evaluation/calibration --per-module 25

Texts, messages, logging, annotations, decorators and asserts are left alone. mutmut changes
messages too, and draws no sample of a module's mutants.
"""

import argparse
import ast
import compileall
import copy
import csv
import gc
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Module -> whose tests are run: tests/test_NAME*.py of these, and the module's own examples.
TESTS = {
    "data/corpus": "corpus held_out labels split_column leakage",
    "data/splits": "splits split_column corpus held_out leakage",
    "evaluation/calibration": "calibration",
    "evaluation/metrics": "metrics differences",
    "experiments/comparing": "comparing differences experiments",
    "inference/generation": "generation",
    "inference/predicted_file": "predict_file serving_files",
    "inference/predictor": "predictor predict_file",
    "inference/sampling": "sampling generation",
    "models/bundle": "bundle",
    "models/lstm": "lstm reader dropped_lstm",
    "models/onnx_graph": "onnx",
    "models/prune": "prune",
    "models/softmax": "softmax language_model",
    "pipeline/pupils": "pupils",
    "pipeline/teachers": "teachers",
    "serving/api": "serving_api canary",
    "serving/batching": "batching",
    "serving/connections": "connections",
    "serving/uploads": "serving_files",
    "text/detokenizer": "detokenizer",
    "training/classifier": "classifier learner",
    "training/distillation": "distillation teachers",
    "training/language_model": "language_model learner",
    "training/loop": "training loop kept_epoch history rates classifier",
    "training/optimizer": "optimizer",
    "training/recipes": "recipes",
}
OPERATORS = {
    **{ast.Lt: (ast.LtE, ast.GtE), ast.GtE: (ast.Gt, ast.Lt)},
    **{ast.Gt: (ast.GtE, ast.LtE), ast.LtE: (ast.Lt, ast.Gt)},
    **{ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,)},
    **{ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.And: (ast.Or,), ast.Or: (ast.And,)},
    **{ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,)},
    **{ast.FloorDiv: (ast.Mult,), ast.Mod: (ast.Mult,), ast.Pow: (ast.Mult,)},
    **{ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,)},
}
SWAPPED = {"min": "max", "any": "all", "argmin": "argmax", "floor": "ceil"}
SWAPPED |= {new: old for old, new in SWAPPED.items()}
IDLE_KEYWORDS = {"strict", "encoding", "stacklevel", "repr"}  # they check or say what is so
SLOW_TO_IMPORT = (
    "fastai.text.all matplotlib.pyplot pandas pytest scipy.stats sklearn spacy".split()
)
PYTEST = "-q --assert=plain -p no:cacheprovider -p no:unraisableexception -p no:threadexception"
COLUMNS = ["module", "line", "before", "after", "outcome", "by"]
ELSEWHERE = 77  # exit code of tests that imported another copy of the package


# ---------------------------------------------------------------------------------- what to change
def _with(node: ast.AST, **fields) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _changes(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Parts of a node, each with what may stand in its place."""
    match node:
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                for other in OPERATORS[type(op)]:
                    yield node, _with(node, ops=[*ops[:i], other(), *ops[i + 1 :]])
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op):
            for other in OPERATORS.get(type(op), ()):
                yield node, _with(node, op=other())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield node, operand
        case ast.Constant(value=bool(value)):
            yield node, ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield node, ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield node, ast.Constant(2 * value or 1.0)
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            yield value, ast.Constant(None)
        case ast.Slice(lower=lower, upper=upper):
            for bound in (lower, upper):
                if bound and not isinstance(bound, ast.Constant):
                    yield bound, ast.BinOp(bound, ast.Add(), ast.Constant(1))
        case ast.Call():
            yield from _changes_of_call(node)
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield from _negations([test])
        case ast.comprehension(ifs=ifs):
            yield from _negations(ifs)
    if isinstance(node, ast.Expr | ast.AugAssign):
        yield node, ast.Pass()


def _changes_of_call(node: ast.Call) -> Iterator[tuple[ast.AST, ast.AST]]:
    args, keywords = node.args, node.keywords
    match node.func:
        case ast.Name(id=name) if name in SWAPPED:
            yield node.func, ast.Name(SWAPPED[name])
        case ast.Attribute(attr=name) if name in SWAPPED:
            yield node.func, _with(node.func, attr=SWAPPED[name])
        case ast.Name(id="sorted") if "reverse" not in [keyword.arg for keyword in keywords]:
            backward = ast.keyword("reverse", ast.Constant(True))
            yield node, _with(node, keywords=[*keywords, backward])
        case _ if len(args) > 1 and not any(isinstance(arg, ast.Starred) for arg in args[:2]):
            yield node, _with(node, args=[args[1], args[0], *args[2:]])
    for keyword in keywords:
        if keyword.arg and keyword.arg not in IDLE_KEYWORDS:
            yield node, _with(node, keywords=[each for each in keywords if each is not keyword])


def _negations(tests: list[ast.expr]) -> Iterator[tuple[ast.AST, ast.AST]]:
    for test in tests:
        # That of a comparison is another comparison.
        if not (isinstance(test, ast.Compare) and len(test.ops) == 1):
            yield test, ast.UnaryOp(ast.Not(), test)


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all in it whose change a test should see."""
    match node:
        case ast.Raise() | ast.Assert() | ast.JoinedStr() | ast.Expr(value=ast.Constant()):
            return
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="log" | "warnings")))):
            return
        case ast.keyword(arg=name) if name in IDLE_KEYWORDS:
            return
        case ast.FunctionDef(args=args, body=body):
            parts = [*args.defaults, *filter(None, args.kw_defaults), *body]
        case ast.ClassDef(body=body):
            parts = body
        case ast.AnnAssign(value=value):
            parts = [value] if value else []
        case _:
            yield node
            parts = ast.iter_child_nodes(node)
    for part in parts:
        yield from _nodes(part)


def find_mutants(source: str) -> list[tuple[int, str, str, str]]:
    """All mutants of a module: line, code there before and after, the whole source of it."""
    tree, found, data = ast.parse(source), {}, source.encode()
    # ast counts columns in bytes.
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for old, new in (change for node in _nodes(tree) for change in _changes(node)):
        code = ast.unparse(new) if isinstance(new, ast.stmt) else f"({ast.unparse(new)})"
        begin = starts[old.lineno - 1] + old.col_offset
        end = starts[old.end_lineno - 1] + old.end_col_offset
        changed = (data[:begin] + code.encode() + data[end:]).decode()
        try:
            same = ast.dump(ast.parse(changed)) == ast.dump(tree)
        except SyntaxError:
            continue
        if not same:
            lines, others = source.splitlines(), changed.splitlines()
            last = old.end_lineno + len(others) - len(lines)
            before, after = lines[old.lineno - 1 : old.end_lineno], others[old.lineno - 1 : last]
            shown = (" ".join(" ".join(part).split()) for part in (before, after))
            found[changed] = (old.lineno, *shown, changed)
    return sorted(found.values())


# -------------------------------------------------------------------------------------- running it
class _Watch:
    """A plugin of pytest: quick tests first; which of them failed, and how long each took."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.before, self.seconds, self.failed = seconds, {}, []

    def pytest_collection_modifyitems(self, items) -> None:
        items.sort(key=lambda item: self.before.get(item.nodeid, 0) > 0.2)

    def pytest_runtest_logreport(self, report) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration
        self.pytest_collectreport(report)

    def pytest_collectreport(self, report) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def _test(tree: Path, module: str, seconds: dict[str, float], limit: float) -> None:
    """Run a module's tests on a copy of the package, in a process of their own.

    It was forked when all that is slow to import was imported, and nothing of the package.
    """
    import pytest

    os.setsid()
    signal.alarm(int(limit))  # nobody handles it: the process ends
    os.chdir(tree)
    sys.path[0] = os.environ["PYTHONPATH"] = str(tree)
    os.environ["PYTHONDONTWRITEBYTECODE"], sys.dont_write_bytecode = "1", True
    for stream in (1, 2):
        os.dup2(os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    files = {
        str(path) for name in TESTS[module].split() for path in tree.glob(f"tests/test_{name}*.py")
    }
    flags = [*PYTEST.split(), f"--basetemp={tree / 'tmp'}", f"--rootdir={tree}"]
    flags += ["-x"] if seconds else []
    watch = _Watch(seconds)
    code = pytest.main([*flags, f"ulmfit_app/{module}.py", *sorted(files)], [watch])
    imported = sys.modules.get(f"ulmfit_app/{module}".replace("/", "."))
    if not Path(getattr(imported, "__file__", tree)).is_relative_to(tree):
        code = ELSEWHERE
    Path("watched.json").write_text(json.dumps([watch.seconds, watch.failed]))
    os._exit(code)


def run_tests(
    folder: Path, module: str, source: str, seconds: dict[str, float], limit: float
) -> tuple[int, dict[str, float], list[str]]:
    """Run a module's tests on its source, changed or not.

    Args:
        folder: where `package` is, and a copy of it for each process.
        module: as in TESTS.
        source: of it.
        seconds: that each test took before, when it stops at a failure; {}: it does not stop.
        limit: seconds for all.

    Returns:
        The exit code (negative: the signal that ended them), seconds of each test, those that
        failed.
    """
    tree = folder / str(os.getpid())
    if not tree.exists():
        shutil.copytree(folder / "package", tree)
    path, watched = tree / f"ulmfit_app/{module}.py", tree / "watched.json"
    for cached in path.parent.glob(f"__pycache__/{path.stem}.*"):
        cached.unlink()
    original = path.read_text(encoding="utf-8")
    path.write_text(source, encoding="utf-8")
    watched.write_text("[{}, []]")
    if not (pid := os.fork()):
        try:
            _test(tree, module, seconds, limit)
        finally:
            os._exit(ELSEWHERE)
    _, status = os.waitpid(pid, 0)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what the tests may have started
    path.write_text(original, encoding="utf-8")
    return os.waitstatus_to_exitcode(status), *json.loads(watched.read_text())


def try_mutant(task: tuple) -> dict[str, str]:
    """A row of the results: what a module's tests say of a mutant."""
    folder, module, (line, before, after, source), seconds, limit = task
    code, _, failed = run_tests(folder, module, source, seconds, limit)
    if code == ELSEWHERE:
        raise SystemExit(f"{module}: its tests did not run on the mutant.")
    outcome = "killed" if code else "survived"
    by = failed[0] if failed else f"exit code {code}" if code else ""
    return dict(zip(COLUMNS, (module, str(line), before, after, outcome, by), strict=True))


def try_module(folder: Path, module: str, options: argparse.Namespace) -> Iterator[dict[str, str]]:
    """Rows of a module's mutants, or of a sample of them."""
    source = (folder / f"package/ulmfit_app/{module}.py").read_text(encoding="utf-8")
    started = time.monotonic()
    code, seconds, failed = run_tests(folder, module, source, {}, 3600)
    if code:
        raise SystemExit(f"{module}: as it is, its tests end with exit code {code}: {failed}")
    limit = 10 + 4 * (time.monotonic() - started)
    mutants = find_mutants(source)
    if options.survivors_of:
        with options.survivors_of.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["outcome"] == "survived"]
        known = {(row["module"], row["before"], row["after"]) for row in rows}
        mutants = [mutant for mutant in mutants if (module, *mutant[1:3]) in known]
    elif options.per_module < len(mutants):
        mutants = random.Random(options.seed).sample(mutants, options.per_module)
    with get_context("fork").Pool(options.jobs) as pool:
        tasks = ((folder, module, mutant, seconds, limit) for mutant in mutants)
        yield from pool.imap(try_mutant, tasks)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="*", default=list(TESTS), help="all of: %(default)s")
    parser.add_argument("--per-module", type=int, default=10**9, help="mutants; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=1, help="mutants tried side by side")
    parser.add_argument("--output", type=Path, default=ROOT / "build/mutants.csv")
    parser.add_argument("--survivors-of", type=Path, help="try those of an earlier --output again")
    options = parser.parse_args()
    if unknown := set(options.modules) - set(TESTS):
        parser.error(f"TESTS names no tests of {', '.join(sorted(unknown))}")
    os.environ["OMP_NUM_THREADS"] = "1"  # threads do not survive a fork
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in SLOW_TO_IMPORT:
        importlib.import_module(name)
    gc.freeze()  # no test process looks for garbage among them
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        options.output.open("w", buffering=1, encoding="utf-8", newline="") as file,
    ):
        # A copy, so that no edit made meanwhile counts as a mutant.
        package = Path(folder) / "package"
        for name in ("ulmfit_app", "data_scripts", "tests"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, package / name, ignore=ignored)
        shutil.copy(ROOT / "setup.cfg", package)
        compileall.compile_dir(package, quiet=1)
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for module in options.modules:
            n = killed = 0
            for row in try_module(Path(folder), module, options):
                writer.writerow(row)
                n, killed = n + 1, killed + (row["outcome"] == "killed")
                print(f"{row['outcome']} {module}.py:{row['line']} {row['by']}", flush=True)
                if row["outcome"] == "survived":
                    print(f"  - {row['before']}\n  + {row['after']}", flush=True)
            print(f"{module}: {killed} of {n} killed", flush=True)


if __name__ == "__main__":
    main()
