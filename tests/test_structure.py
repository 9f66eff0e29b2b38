"""The rules of the house, read from the files: who imports what, how long a file may be, what an import may do."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GROUND_FLOOR = {"installed", "errors", "files", "protocols", "tensors"}
VERBS = {"train", "eval", "predict", "audit", "prepare", "compare", "baseline", "reproduce"}
# From the bottom to the top: a room imports rooms that come before it, never one that comes after it.
ORDER = (
    *("installed", "errors", "files", "protocols", "tensors"),
    *("loss", "resampling", "consistency", "metrics", "model", "lora", "demo", "data", "baselines", "objectives"),
    *("machine", "cli", "scoring", "report", "run", "auditing", "studies"),
)
ROOMS = (*(room for room in ORDER if (ROOT / room).is_dir()), "bench", "tests", "docs")
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]
)
TREES = {name: ast.parse((ROOT / name).read_bytes(), name) for name in FILES}
LINES = {name: len((ROOT / name).read_bytes().splitlines()) for name in FILES}
OURS = {name.removesuffix(".py").split("/")[0] for name in FILES}
PRODUCT = [name for name in FILES if not name.startswith(("tests/", "bench/", "docs/"))]
READING_PATH = [
    *("data/prompts.py", "data/pairs.py", "model/llama.py", "model/prefix_tree.py", "lora/layer.py", "lora/inject.py"),
    *("loss.py", "objectives/base.py", "objectives/paper.py", "train.py"),
]


def imports(name):
    """Dotted names of all modules that the file imports, inside functions too."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def top_level(name):
    return {module.split(".")[0] for module in imports(name)}


def in_room(*rooms):
    return [name for name in FILES if name.split("/")[0] in rooms]


# ---- rooms --------------------------------------------------------------------------------------


def test_every_folder_with_python_files_is_a_room_of_the_house():
    places = {path.relative_to(ROOT).parts[0] for path in tracked_files() if path.suffix == ".py"}
    assert {place for place in places if (ROOT / place).is_dir()} == set(ROOMS)


@pytest.mark.parametrize("folder", sorted({Path(name).parent for name in FILES} - {Path()}, key=str), ids=str)
def test_a_room_is_a_regular_package_that_says_what_lives_in_it(folder):
    """Without an __init__.py another installed package of that name takes precedence; see tests/test_rooms.py."""
    tree = TREES[(folder / "__init__.py").as_posix()]
    assert ast.get_docstring(tree) and len(tree.body) == 1


# ---- who imports what ---------------------------------------------------------------------------


def test_the_files_that_the_rules_speak_of_are_there():
    assert set(READING_PATH) <= set(FILES) and {"metrics.py", "eval.py"} <= set(FILES)
    assert {room for room in ORDER if room in OURS} == set(ORDER)


@pytest.mark.parametrize("name", [name for name in PRODUCT if name.removesuffix(".py") not in VERBS])
def test_a_room_imports_only_what_lies_below_it(name):
    room = name.removesuffix(".py").split("/")[0]
    for imported in top_level(name) & OURS - {room}:
        assert imported in ORDER and ORDER.index(imported) < ORDER.index(room), f"{name} imports {imported}"


def test_no_circle_of_imports_and_none_hidden_in_a_function():
    modules = {name.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): name for name in FILES}
    graph = {module: imports(name) & set(modules) - {module} for module, name in modules.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("name", PRODUCT)
def test_modules_of_ours_are_imported_at_the_top_of_a_file(name):
    inside = [node for node in ast.walk(TREES[name]) if isinstance(node, (ast.Import, ast.ImportFrom))]
    hidden = [ast.unparse(node) for node in inside if node not in TREES[name].body]
    assert not [line for line in hidden if line.split()[1].split(".")[0] in OURS]


def test_the_loop_imports_at_most_fifteen_modules_of_ours():
    statements = [node for node in TREES["train.py"].body if isinstance(node, ast.ImportFrom)]
    assert len({node.module for node in statements if node.module.split(".")[0] in OURS}) <= 15


@pytest.mark.parametrize("name", in_room("model", "lora"))
def test_model_and_lora_import_torch_safetensors_sentencepiece_and_their_own_folder(name):
    allowed = {"torch", "safetensors", "sentencepiece", *GROUND_FLOOR, name.split("/")[0]} | sys.stdlib_module_names
    assert top_level(name) <= allowed


def test_the_loss_imports_torch_only():
    assert top_level("loss.py") <= {"torch"} | sys.stdlib_module_names


def test_the_metrics_import_numpy_and_scikit_learn_only():
    allowed = {"numpy", "sklearn", "resampling", "consistency"} | sys.stdlib_module_names
    for name in ("resampling.py", "consistency.py", "metrics.py"):
        assert top_level(name) <= allowed


@pytest.mark.parametrize("name", in_room("data"))
def test_data_never_imports_model_lora_loss_or_machine(name):
    assert not top_level(name) & {"model", "lora", "loss", "machine", *VERBS}


@pytest.mark.parametrize("name", PRODUCT)
def test_nothing_imports_a_verb_bench_or_tests(name):
    assert not top_level(name) & (VERBS | {"bench", "tests"})


@pytest.mark.parametrize("name", [name for name in PRODUCT if not name.startswith("machine/")])
def test_only_machine_touches_torch_distributed(name):
    assert not any(module.startswith("torch.distributed") for module in imports(name))
    used = [ast.unparse(node) for node in ast.walk(TREES[name]) if isinstance(node, ast.Attribute)]
    assert "torch.distributed" not in used


LIBRARIES_OF_OTHERS = {"transformers", "peft", "accelerate", "datasets", "trl", "deepspeed"}


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith(("tests/oracle/", "bench/"))])
def test_only_oracle_and_bench_import_the_libraries_that_this_project_does_without(name):
    assert not top_level(name) & LIBRARIES_OF_OTHERS


@pytest.mark.parametrize("name", PRODUCT)
def test_every_import_is_listed_in_requirements(name):
    listed = {line.split("=")[0].split(">")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()}
    third_party = top_level(name) - sys.stdlib_module_names - OURS
    assert third_party <= {line.replace("scikit-learn", "sklearn") for line in listed}


ALONE = """
import importlib, importlib.metadata, importlib.abc, re, sys
root, *modules = sys.argv[1:]
sys.path.insert(0, root)
def name_of(line):
    return re.match(r"[\\w.-]+", line)[0].lower().replace("_", "-")
provided, waiting = set(), [name_of(line) for line in open(root + "/requirements.txt") if line.strip()]
while waiting:
    name = waiting.pop()
    if name not in provided:
        provided.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # for another platform
            continue
        waiting += [name_of(line) for line in needs if "extra ==" not in line]
of_module = importlib.metadata.packages_distributions()
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top in of_module and not {d.lower().replace("_", "-") for d in of_module[top]} & provided:
            raise ModuleNotFoundError(f"{top} is not among what requirements.txt installs", name=top)
sys.meta_path.insert(0, Block())
for name in ("pytest", "transformers", "peft", "hypothesis"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        pass
    else:
        raise SystemExit(f"{name} was not blocked")
for module in modules:
    importlib.import_module(module)
print(len(modules))
"""


def test_requirements_alone_are_enough_to_import_every_product_module():
    """What these packages do not bring with them cannot be imported: as if nothing else had been installed."""
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in PRODUCT]
    done = subprocess.run([sys.executable, "-c", ALONE, str(ROOT), *modules], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, str(len(modules))), done.stderr[-2000:]


def test_what_the_checks_install_lies_within_the_requirements():
    """.ci/constraints.txt pins every package of requirements.txt, each within its range."""

    def versions(text):
        return tuple(int(part) for part in text.split("."))

    lines = [
        line
        for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    pins = dict(line.split("==") for line in lines)
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        name, *_ = re.split("[=<>]", line)
        for sign, bound in re.findall(r"(==|>=|<)([\d.]+)", line):
            pinned, bound = versions(pins[name]), versions(bound)
            assert pinned == bound if sign == "==" else pinned >= bound if sign == ">=" else pinned < bound, line


# ---- budgets ------------------------------------------------------------------------------------

BUDGETS = {"model/llama.py": 260, "train.py": 300, "loss.py": 200}
NOT_TESTS = [name for name in FILES if not name.startswith("tests/")]


def functions(name):
    return [node for node in ast.walk(TREES[name]) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_at_most_400_lines_and_the_central_ones_less(name):
    assert LINES[name] <= BUDGETS.get(name, 400)


@pytest.mark.parametrize("name", NOT_TESTS)
def test_a_function_is_at_most_50_lines(name):
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions(name)}
    assert {function: length for function, length in lengths.items() if length > 50} == {}


@pytest.mark.parametrize("name", PRODUCT)
def test_a_function_has_at_most_6_parameters(name):
    for node in functions(name):
        parameters = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        assert len([a for a in parameters if a not in ("self", "cls")]) <= 6, node.name


@pytest.mark.parametrize("name", PRODUCT)
def test_public_functions_have_complete_type_hints(name):
    for node in functions(name):
        if not node.name.startswith("_") or node.name == "__init__":
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            assert not bare, f"{name}:{node.lineno} {node.name}: {bare}"
            assert node.returns or node.name == "__init__", f"{name}:{node.lineno} {node.name}: returns?"


def test_the_reading_path_is_at_most_1500_lines():
    assert sum(LINES[name] for name in READING_PATH) <= 1500


# ---- what an import may do ----------------------------------------------------------------------

DEFINITIONS = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.ClassDef)


def is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def is_main_guard(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" and not node.orelse


@pytest.mark.parametrize("name", PRODUCT)
def test_an_import_only_defines(name):
    body = TREES[name].body
    others = [
        ast.unparse(node)
        for node in body
        if not (isinstance(node, DEFINITIONS) or is_docstring(node) or is_main_guard(node))
    ]
    assert others == []


EFFECTS = {
    "open",
    "print",
    "exec",
    "eval",
    "input",
    "read_text",
    "read_bytes",
    "write_text",
    "write_bytes",
    "mkdir",
    "parse_args",
    "manual_seed",
    "set_default_device",
    "set_num_threads",
    "load",
    "run",
    "getenv",
}


@pytest.mark.parametrize("name", PRODUCT)
def test_no_assignment_at_import_reads_writes_or_sets_anything(name):
    values = [node.value for node in TREES[name].body if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value]
    outside_lambdas = [node for value in values if not isinstance(value, ast.Lambda) for node in ast.walk(value)]
    called = {ast.unparse(node.func).split(".")[-1] for node in outside_lambdas if isinstance(node, ast.Call)}
    assert not called & EFFECTS
    assert not any(ast.unparse(node) == "os.environ" for node in outside_lambdas if isinstance(node, ast.Attribute))


@pytest.mark.parametrize("name", FILES)
def test_every_file_begins_with_what_it_is_for(name):
    if (ROOT / name).stat().st_size:
        assert ast.get_docstring(TREES[name])


# ---- safety -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_nothing_unpickles(name):
    assert not top_level(name) & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            safe = [keyword for keyword in node.keywords if keyword.arg == "weights_only"]
            assert safe and ast.unparse(safe[0].value) == "True", (
                f"{name}:{node.lineno}: torch.load without weights_only=True"
            )
        if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "trust_remote_code"):
            assert ast.unparse(node.value) == "False", f"{name}:{node.value.lineno}: {node.arg}"


@pytest.mark.parametrize("name", PRODUCT)
def test_no_bare_except_and_no_eval_or_shell(name):
    for node in ast.walk(TREES[name]):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{name}:{node.lineno}: bare except"
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("eval", "exec", "os.system"), f"{name}:{node.lineno}"
            assert not any(k.arg == "shell" for k in node.keywords), f"{name}:{node.lineno}: shell"


def tracked_files():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git repository: cannot tell which files belong to it")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def test_no_file_in_git_is_over_1_9_megabytes():
    sizes = {str(path): path.stat().st_size for path in tracked_files() if path.is_file()}
    assert {name: size for name, size in sizes.items() if size > 1_900_000} == {}


def test_no_real_data_and_no_path_of_a_machine_is_in_git():
    forbidden_names = {"u.data", "u.item", "u.user", "ratings.dat", "movies.dat"}
    machine = [b"/" + word + b"/" for word in (b"home", b"root", b"work", b"Users")]
    for path in tracked_files():
        assert path.name not in forbidden_names
        if path.suffix in (".py", ".md", ".txt", ".json", ".csv", ".cff", ".ini") and path.is_file():
            content = path.read_bytes()
            assert not [word for word in machine if word in content], path
