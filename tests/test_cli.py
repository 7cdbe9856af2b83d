import json
import os
import subprocess
import sys

import click
import pytest

from mxa_lite import cli as cli_module
from mxa_lite.cli import console
from mxa_lite.errors import InputError, RunError
from mxa_lite.recipe.file import dump, load, shipped
from mxa_lite.runs.stored import stored_recipe

HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "unsloth"}
PROBE = (
    "import sys\n"
    "from mxa_lite.cli import main\n"
    "try:\n    main()\n"
    f"finally:\n    print('heavy:', sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)\n"
)


def mxa(*args, cwd=None, env=None):
    """The command in a process of its own; stderr ends with the heavy modules it imported."""
    return subprocess.run(
        [sys.executable, "-c", PROBE, *map(str, args)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | (env or {}),
        capture_output=True,
        text=True,
    )


def assert_refused(done, message):
    assert done.returncode == 2, done.stderr
    *lines, heavy = done.stderr.splitlines()
    assert heavy == "heavy: []"
    assert len(lines) <= 12
    assert "Traceback" not in done.stderr
    assert message in done.stderr
    assert done.stdout == ""


def test_help_imports_nothing_heavy():
    done = mxa("--help")
    assert done.returncode == 0
    assert done.stderr == "heavy: []\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "no-such.yaml"], 'no recipe or run folder "no-such.yaml"'),
        (["run", "arithmetic", "--set", "train.stepz=1"], 'did you mean "train.steps"?'),
        (["run", "arithmetic", "--set", "train.steps=x"], "must be a valid integer"),
        (["run", "arithmetic", "--set", "task.train=gone.jsonl"], '"gone.jsonl" does not exist'),
        (["run", "arithmetic", "--set", "model.name=./gone"], 'folder "./gone" does not exist'),
        (["run", "arithmetic", "--resume", "--output", "nowhere"], "there is no run in nowhere"),
        (["run", "empty.yaml"], "the recipe is empty"),
        (["run", "no-task.yaml"], 'the key "task" is missing'),
        (["run", "arithmetic", "--output", "full"], "is not empty"),
        (["run", "arithmetic", "--output", "empty.yaml"], "is not a folder"),
        (["run", "arithmetic", "--output", "empty.yaml/run"], "empty.yaml is not a folder"),
        (["run", "arithmetic", "--output", "x" * 300], "name too long"),
        (["compare", "arithmetic", "--output", "empty.yaml"], "is not a folder"),
        (["export", "full", "--merged", "empty.yaml/x"], "is not a folder"),
        ([], "Missing command"),
        (["run"], "Missing argument 'RECIPE'"),
        (["runn"], "No such command 'runn'"),
        (["plan", "arithmetic"], "give --vram GB or --card"),
        (["plan", "arithmetic", "--vram", "0"], "'--vram'"),
        (["plan", "arithmetic", "--vram", "nan"], "--vram: must be a finite number"),
        (["validate", "arithmetic", "--set", "schedule.mode=off"], "allowed: 'stagewise'"),
        (["exec", "gone.py", "--question", "q"], "gone.py cannot be read"),
        (["exec", "empty.yaml"], "Missing option '--question'"),
        (["exec", "empty.yaml", "--question", "q", "--replies", "gone"], "gone cannot be read"),
        (["exec", "x", "--question", "q", "--replies", "r", "--model", "m"], "exclude each other"),
        (["report", "full"], "full: not a run folder"),
        (["grade", "gone.jsonl"], "gone.jsonl cannot be read"),
    ],
)
def test_wrong_input_is_exit_2_before_anything_heavy(args, message, tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "no-task.yaml").write_text("extends: base\nmodel: {name: embedded}\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert_refused(mxa(*args, cwd=tmp_path), message)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def stored(tmp_path):
    (tmp_path / "recipe.yaml").write_text(dump(load("arithmetic", ["train.steps=10"])))
    return tmp_path


def test_resume_refuses_another_recipe_and_names_the_key(stored):
    recipe = load("arithmetic", ["train.steps=10", "lora.r=3"])
    with pytest.raises(InputError, match=r"lora\.r differs"):
        console.check_output(stored, recipe, resume=True)


def test_resume_lets_steps_grow_and_not_shrink(stored):
    console.check_output(stored, load("arithmetic", ["train.steps=11"]), resume=True)
    with pytest.raises(InputError, match=r"train\.steps may only grow"):
        console.check_output(stored, load("arithmetic", ["train.steps=9"]), resume=True)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(InputError, match="cannot be written to"):
        console.check_output(tmp_path / "a" / "b", load("arithmetic"), resume=False)


def test_the_shape_of_stored_adapters_is_not_changed_by_a_setting(stored):
    (stored / "checkpoints" / "step-00001" / "designer").mkdir(parents=True)
    (stored / "checkpoints" / "step-00001" / "designer" / "adapter_config.json").touch()
    stored_recipe(stored, ("eval.questions=3",), checkpoint=True)
    for setting in ("lora.r=3", "model.adapters=shared"):
        with pytest.raises(InputError, match="has its adapters"):
            stored_recipe(stored, (setting,), checkpoint=True)


def test_later_processes_of_a_launch_find_a_folder_in_use(stored, monkeypatch):
    recipe = load("arithmetic")
    with pytest.raises(InputError, match="is not empty"):
        console.check_output(stored, recipe, resume=False)
    monkeypatch.setenv("RANK", "1")
    console.check_output(stored, recipe, resume=False)


def test_default_output_is_named_after_the_recipe(tmp_path):
    assert str(console.default_output(tmp_path / "gsm8k.yaml")) == "runs/gsm8k"
    named = tmp_path / "first" / "recipe.yaml"
    assert str(console.default_output(named)) == "runs/first"


def test_plan_prints_one_json_object(tmp_path):
    done = mxa("plan", "gsm8k", "--vram", "4", "--json", cwd=tmp_path)
    result = json.loads(done.stdout)
    assert done.returncode == 0
    assert result["fits"] is False
    assert result["lower_first"]
    assert sum(result["parts"].values()) > 0
    assert done.stderr == "heavy: []\n"


def test_validate_prints_the_resolved_recipe_from_an_empty_folder(tmp_path):
    done = mxa("validate", "recipes/gsm8k.yaml", "--set", "seed=5", cwd=tmp_path)
    assert done.returncode == 0
    (tmp_path / "back.yaml").write_text(done.stdout)
    assert load(tmp_path / "back.yaml") == load("gsm8k", ["seed=5"])


def test_recipes_lists_all(tmp_path):
    listed = mxa("recipes", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in listed] == shipped()


def test_python_m_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "mxa_lite", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "0." in done.stdout


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (InputError("bad row 3"), 2),
        (RunError("a reply is missing"), 1),
        (OSError(28, "No space left on device", "metrics.jsonl"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes_of_a_running_command(fault, code, monkeypatch, capsys):
    @click.command()
    def failing():
        raise fault

    monkeypatch.setattr(sys, "argv", ["mxa-lite"])
    assert console.run_command(failing) == code
    assert len(capsys.readouterr().err.splitlines()) <= 2


def test_json_output_is_alone_on_stdout():
    code = (
        "import os\nfrom mxa_lite.cli import console\nfrom mxa_lite.stdio import stdout_for_json\n"
        "with stdout_for_json(True):\n    print('chatter'); os.write(1, b'from C')\n"
        "console.print_json({'fits': True})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == '{"fits": true}\n'
    assert "chatter" in done.stderr
    assert "from C" in done.stderr


def test_json_output_never_holds_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        console.print_json({"accuracy": float("nan")})


def test_every_command_has_a_sentence_of_help():
    for command in cli_module.cli.commands.values():
        assert command.help


def test_exec_prints_one_json_object_and_needs_nothing_heavy(tmp_path):
    (tmp_path / "s.py").write_text("print('noise')\nanswer(Agent('solver', 'solve')(question))\n")
    (tmp_path / "r.jsonl").write_text('{"agent": "solver", "reply": "\\\\boxed{7}"}\n')
    args = ("s.py", "--question", "3+4?", "--replies", "r.jsonl", "--json")
    done = mxa("exec", *args, "--set", "rollout.max_calls=1", cwd=tmp_path)
    result = json.loads(done.stdout)
    assert (done.returncode, result["outcome"], result["answer"]) == (0, "ok", "7")
    assert [call["agent"] for call in result["calls"]] == ["solver"]
    assert result["stdout"] == "noise\n"
    assert done.stderr == "heavy: []\n"


def test_exec_says_which_line_went_wrong_and_what_is_missing(tmp_path):
    (tmp_path / "s.py").write_text("x = question\nprint(x)\n1 / 0\n")
    done = mxa("exec", "s.py", "--question", "2+2?", cwd=tmp_path)
    assert 'File "script.py", line 3' in done.stderr
    assert done.stdout.startswith("--- printed\n2+2?\noutcome: crashed (ZeroDivisionError")
    (tmp_path / "s.py").write_text("answer(Agent('a')(question))\n")
    done = mxa("exec", "s.py", "--question", "2+2?", cwd=tmp_path)
    assert "no reply for agent 'a'; --replies FILE brings replies" in done.stdout
    (tmp_path / "s.py").write_text("\nanswer(\n")
    done = mxa("exec", "s.py", "--question", "2+2?", cwd=tmp_path)
    assert "was never closed (script.py, line 2)" in done.stdout


def test_control_characters_of_a_reply_do_not_reach_the_terminal(tmp_path):
    (tmp_path / "s.py").write_text("answer(Agent('a')(question))\n")
    (tmp_path / "r.jsonl").write_text('{"agent": "*", "reply": "\\u001b[2J4"}\n')
    done = mxa("exec", "s.py", "--question", "2+2?", "--replies", "r.jsonl", cwd=tmp_path)
    assert "\x1b" not in done.stdout
    assert done.stdout.endswith("outcome: ok\nanswer: \\x1b[2J4\n")


def test_grade_gives_one_verdict_a_line(tmp_path):
    rows = [{"task": "gsm8k", "gold": "7", "answer": a} for a in ("\\boxed{7}", "\\boxed{8}", "")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = mxa("grade", "a.jsonl", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == {"verdicts": [True, False, False]}
