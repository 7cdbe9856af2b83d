"""The rooms of the house: which may import which, how large they are, what stays light."""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent / "mxa_lite"
FLOORS = (  # a room imports from floors below its own, and from itself
    {"errors", "stdio", "tree", "records", "embedded", "texts"},
    {"runfolder", "recipe", "mas", "wire"},
    {"sandbox", "policy", "credit", "grading"},
    {"tasks"},
    {"rollout"},
    {"learn", "evidence"},
    {"runs", "machine"},
    {"cli", "makers"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# The standard library, and rooms of which the same holds.
PURE = ("mas", "texts", "credit", "tree.py", "errors.py", "wire.py", "records.py")
PURE += ("sandbox/child.py", "sandbox/confine.py", "sandbox/server.py")
FILE, ROOM, PACKAGE = 400, 1600, 17_964  # lines at most
STEP, STEP_PATH = 100, 1200
STEP_FILES = (  # one training step, from its page down to the loss
    "learn/step.py",
    "learn/trainer.py",
    "learn/batching.py",
    "learn/numbers.py",
    "credit/advantage.py",
    "credit/schedule.py",
    "rollout/sampler.py",
    "rollout/single.py",
)

VAGUE = {"asked", "found", "given", "made", "shown", "some", "wanted"}  # of what, by whom?

MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def imports(path: Path) -> set[str]:
    """Modules that a file names in an import; those for the type checker alone do not count."""
    named: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            named |= whole & MODULES.keys() or {node.module}
    return named


def kit_imports() -> dict[str, set[str]]:
    """Each module of the kit and those of the kit that it imports."""
    return {
        name: imports(path) & MODULES.keys() - {name, "mxa_lite"} for name, path in MODULES.items()
    }


def stored_name(node: ast.AST) -> str | None:
    """The variable that a node of the syntax tree stores to; None for other nodes."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id
    return node.arg if isinstance(node, ast.arg) else None


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_every_import_goes_down() -> None:
    rooms = {name: name.split(".")[1] for name in MODULES if "." in name}
    makers = [name for name in rooms if name.startswith("mxa_lite.embedded.")]
    rooms |= dict.fromkeys(makers, "makers")  # what made the tiny model; no other room uses them
    upward = [
        f"{name} -> {other}"
        for name, others in kit_imports().items()
        for other in others
        if rooms.get(name) in FLOOR
        and rooms[name] != rooms[other]
        and FLOOR[rooms[other]] >= FLOOR[rooms[name]]
    ]
    assert not upward, upward


def test_there_is_no_circle_of_files() -> None:
    TopologicalSorter(kit_imports()).prepare()  # CycleError names it


def test_the_method_and_the_script_language_need_the_standard_library_alone() -> None:
    for room in PURE:
        place = ROOT / room
        for path in [place] if place.suffix else place.rglob("*.py"):
            outside = {m.split(".")[0] for m in imports(path)} - sys.stdlib_module_names
            assert outside <= {"mxa_lite"}, f"{path}: {outside}"


def test_only_one_file_imports_trl_s_trainer_one_unsloth_and_one_vllm() -> None:
    users: dict[str, set[str]] = {"GRPOTrainer": set(), "unsloth": set(), "vllm": set()}
    for path in MODULES.values():
        file = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                if any(alias.name == "GRPOTrainer" for alias in node.names):
                    users["GRPOTrainer"].add(file)
                modules = [node.module or ""]
            else:
                modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            for package in {module.split(".")[0] for module in modules} & {"unsloth", "vllm"}:
                users[package].add(file)
    assert users == {
        "GRPOTrainer": {"learn/trainer.py"},
        "unsloth": {"policy/unsloth.py"},
        "vllm": {"rollout/vllm.py"},
    }


def test_nothing_is_too_large_to_read() -> None:
    assert {str(p): lines(p) for p in MODULES.values() if lines(p) > FILE} == {}
    rooms = {folder.name: sum(map(lines, folder.rglob("*.py"))) for folder in ROOT.iterdir()}
    assert {room: size for room, size in rooms.items() if size > ROOM} == {}
    assert sum(map(lines, MODULES.values())) <= PACKAGE


def test_a_step_is_one_page_and_its_whole_path_can_be_read() -> None:
    assert lines(ROOT / "learn/step.py") <= STEP
    assert sum(lines(ROOT / name) for name in STEP_FILES) <= STEP_PATH


def test_a_variable_is_named_after_what_it_holds() -> None:
    """Parameters are variables too; attributes and keys of files keep the names they have."""
    vague = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {name}"
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (name := stored_name(node)) in VAGUE
    ]
    assert not vague, vague
