"""The house's own rules, held by reading its files: who may import what, print, or unpickle."""

import ast
from pathlib import Path

import pytest

import data_scripts
import ulmfit_app

APP, SCRIPTS = (Path(package.__file__).parent for package in (ulmfit_app, data_scripts))
# From the ground up. A room, a folder or a file beside the folders, imports only from rooms before
# it; files of one room import each other as they like, but in no circle.
ROOMS = [
    *(
        "errors",
        "languages",
        "files",
        "config",
        "presets",
        "settings_json",
        "sampling_settings",
        "hardware",
        *("jobs", "cluster", "executors"),
        "run_folder",
    ),
    "evaluation",
    "text",
    "data",
    "models",
    "training",
    "inference",
    "serving",
    "pipeline",
    "experiments",
    "course",
    "cli",
    *("run", "__main__"),
]
GROUND = set(ROOMS[: ROOMS.index("evaluation")])
MOST_FLOORS = 9
FILES = [path for package in (APP, SCRIPTS) for path in sorted(package.rglob("*.py"))]


def name_of(path: Path) -> str:
    """ulmfit_app.evaluation.metrics, for its file."""
    package = APP if path.is_relative_to(APP) else SCRIPTS
    module = path.relative_to(package.parent).with_suffix("")
    return ".".join(part for part in module.parts if part != "__init__")


MODULES = {name_of(path): path for path in FILES}


def imports_of(tree: ast.AST) -> set[str]:
    """Modules that a file imports anywhere in it, functions included; of `from a import b`, a.b
    where that is a module."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where a name comes from"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in inner}
    return found


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room_of(module: str) -> str:
    return module.split(".")[1]


IMPORTS = {name: imports_of(parsed(path)) for name, path in MODULES.items()}
APP_FILES = [name for name in MODULES if name.startswith("ulmfit_app.")]


def imported_from_app(name: str) -> set[str]:
    return {module for module in IMPORTS[name] if module.split(".")[0] == "ulmfit_app"}


def test_every_file_has_its_place_in_the_order():
    assert {room_of(name) for name in APP_FILES} == set(ROOMS)


def test_the_data_scripts_never_import_the_application():
    scripts = [name for name in MODULES if name.startswith("data_scripts")]
    assert len(scripts) > 4
    assert {name: imported_from_app(name) for name in scripts} == {name: set() for name in scripts}


@pytest.mark.parametrize("name", APP_FILES)
def test_a_file_imports_only_from_rooms_below_its_own(name):
    room = room_of(name)
    below = ROOMS[: ROOMS.index(room)]
    assert {room_of(module) for module in imported_from_app(name)} <= {*below, room}


@pytest.mark.parametrize("name", [name for name in APP_FILES if room_of(name) == "evaluation"])
def test_evaluation_imports_only_the_ground_and_itself(name):
    assert {room_of(module) for module in imported_from_app(name)} <= {*GROUND, "evaluation"}


@pytest.mark.parametrize("name", [name for name in APP_FILES if room_of(name) == "inference"])
def test_inference_never_imports_training_or_what_stands_on_it(name):
    assert not {room_of(module) for module in imported_from_app(name)} & {"training", "pipeline"}


TORCHLESS = {
    *("languages", "errors", "files", "config", "presets", "settings_json", "sampling_settings"),
    *("evaluation", "text", "data"),
}
# Batches are tensors: they import torch where they make them.
LAZY = {"ulmfit_app.text.batches", "ulmfit_app.text.windows"}


@pytest.mark.parametrize("name", [name for name in APP_FILES if room_of(name) in TORCHLESS - LAZY])
def test_rooms_that_need_no_torch_import_none(name):
    roots = {module.split(".")[0] for module in IMPORTS[name]}
    assert not roots & {"torch", "fastai"} or name in LAZY


def test_the_house_has_few_floors():
    """A room stands one floor above the highest room that it imports from."""
    needs = {room: set() for room in ROOMS}
    for name in APP_FILES:
        needs[room_of(name)] |= {room_of(module) for module in imported_from_app(name)}
    floors: dict[str, int] = {}
    for room in ROOMS:
        floors[room] = 1 + max((floors[other] for other in needs[room] - {room}), default=0)
    assert max(floors.values()) <= MOST_FLOORS, floors


def sizes_of(tree: ast.AST, kinds: tuple[type, ...]) -> list[tuple[str, int]]:
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    return [(node.name, node.end_lineno - node.lineno + 1) for node in nodes]


@pytest.mark.parametrize("name", list(MODULES))
def test_no_file_class_or_function_is_longer_than_one_can_keep_in_mind(name):
    text = MODULES[name].read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= 400
    assert not [size for size in sizes_of(tree, (ast.ClassDef,)) if size[1] > 150]
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    # Each of them: two classes of a file have methods of one name.
    assert not [size for size in sizes_of(tree, functions) if size[1] > 60]


@pytest.mark.parametrize("name", APP_FILES)
def test_no_file_takes_a_private_name_of_another(name):
    private = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(parsed(MODULES[name]))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ulmfit_app")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert not private


def test_no_files_import_each_other_in_a_circle():
    left = {name: {module for module in IMPORTS[name] if module in MODULES} for name in MODULES}
    while free := [name for name, needs in left.items() if not needs & set(left)]:
        for name in free:
            del left[name]
    assert left == {}


def calls(tree: ast.AST) -> list[tuple[str, int]]:
    """Names of the functions called, dotted, with their lines."""
    return [
        (ast.unparse(node.func), node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]


def is_main_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def speaks(tree: ast.AST) -> set[str]:
    """What prints or exits in it."""
    forbidden = {
        "print",
        "exit",
        "quit",
        "sys.exit",
        "os._exit",
        "sys.stdout.write",
        "sys.stderr.write",
    }
    return {name for name, _ in calls(tree)} & forbidden


SPEAKERS = {"cli", "__main__"}


@pytest.mark.parametrize(
    "name",
    [name for name in MODULES if name not in APP_FILES or room_of(name) not in SPEAKERS],
)
def test_only_the_command_line_prints_or_exits(name):
    tree = parsed(MODULES[name])
    # A data script can be run alone: it exits under its guard, and one function of `fetch` prints
    # for all of them.
    if name.startswith("data_scripts."):
        tree.body = [
            node
            for node in tree.body
            if not is_main_guard(node) and getattr(node, "name", "") != "run_script"
        ]
    assert speaks(tree) == set()


def test_the_command_line_does_print():
    """Else the test above would look for the wrong thing."""
    assert "print" in speaks(parsed(MODULES["ulmfit_app.__main__"]))
    assert "print" in speaks(parsed(MODULES["ulmfit_app.cli.runs"]))


def test_only_the_reader_of_fastais_format_imports_pickle():
    picklers = {
        "pickle",
        "cPickle",
        "_pickle",
        "cloudpickle",
        "dill",
        "joblib",
        "shelve",
        "marshal",
    }
    found = {
        name
        for name, modules in IMPORTS.items()
        if {module.split(".")[0] for module in modules} & picklers
    }
    assert found == {"ulmfit_app.models.pretrained"}


@pytest.mark.parametrize("name", APP_FILES)
def test_nothing_is_unpickled_but_through_readers_that_run_nothing(name):
    unsafe = {"pickle.load", "pickle.loads", "pickle.Unpickler", "pd.read_pickle"}
    unsafe |= {"load_learner", "load_pickle", "torch.save"}
    tree = parsed(MODULES[name])
    # One function writes fastai's own format, for who asks for it by name.
    tree.body = [node for node in tree.body if getattr(node, "name", "") != "write_fastai"]
    assert not {called for called, _ in calls(tree)} & unsafe
    loads = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert all("weights_only=True" in ast.unparse(node) for node in loads)
    arrays = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.load"
    ]
    assert not any("allow_pickle" in ast.unparse(node) for node in arrays)


@pytest.mark.parametrize("name", APP_FILES)
def test_tables_are_written_and_read_in_one_way(name):
    """By `files` and `data.reading`: pandas' own loses characters and guesses types."""
    tree = parsed(MODULES[name])
    # A lesson writes a file as a spreadsheet exports it.
    others = "write_german_file" if name == "ulmfit_app.course.lesson_08" else ""
    tree.body = [node for node in tree.body if getattr(node, "name", "") != others]
    found = {called for called, _ in calls(tree)}
    assert not {called for called in found if called.rpartition(".")[2] in ("to_csv", "read_csv")}
    assert "pd.read_table" not in found
