from pathlib import Path

import pytest
import yaml

from mxa_lite.errors import InputError
from mxa_lite.machine.plan import plan
from mxa_lite.recipe import file as recipe_file
from mxa_lite.recipe import own
from mxa_lite.recipe.file import dump, find, load, packaged, shipped, smoked
from mxa_lite.recipe.keys import GPU_PRESETS, Rates, Recipe, diff, flat, own_choices

MINIMAL = "model: {name: embedded}\ntask: arithmetic\n"


@pytest.fixture
def write(tmp_path):
    def _write(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return _write


def refused(source, *sets):
    with pytest.raises(InputError) as error:
        load(source, sets)
    return str(error.value)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_is_read_planned_and_read_back(name, write):
    recipe = load(name)
    assert plan(recipe, 1000)["fits"]
    for file in own.files(own_choices(recipe)).values():
        write(file.text, file.file)
    again = load(write(dump(recipe)))
    assert again == recipe
    assert load(f"recipes/{name}.yaml", ["model.name=embedded"]).task == recipe.task


@pytest.mark.parametrize("name", shipped())
def test_qwen3_recipes_switch_thinking_off(name):
    recipe = load(name)
    if "Qwen3" in recipe.model.name:
        assert recipe.model.chat_template == {"enable_thinking": False}


def test_paper_recipes_have_the_paper_s_setting():
    for name in ("paper-math", "paper-code", "paper-mixed"):
        recipe = load(name)
        assert (recipe.rollout.designs, recipe.rollout.executions) == (4, 4)
        assert recipe.train.questions == 8
        assert recipe.train.learning_rate == Rates(designer=5e-6, executor=5e-6)
        assert (recipe.schedule.period, recipe.schedule.first) == (30, "executor")
        assert recipe.rollout.max_completion_tokens.executor == 8192


def test_base_lists_every_key_with_its_default():
    base = yaml.load((recipe_file.SHIPPED / "base.yaml").read_text(), recipe_file._Loader)
    defaults = Recipe.model_validate({"model": {}, "task": "x"}).model_dump(mode="json")
    filled_in = ("model", "task", "versions", "own")  # not for a recipe's author to write
    assert base == {k: v for k, v in defaults.items() if k not in filled_in}


@pytest.mark.parametrize("preset", ["8gb", "12gb", "16gb", "24gb"])
def test_presets_change_memory_knobs_only(preset):
    plain, tight = load("paper-math"), load("paper-math", [f"gpu={preset}"])
    changed = {key for key, value in flat(tight).items() if flat(plain)[key] != value}
    assert changed <= {"gpu", "train.tokens_per_micro_batch", "generation_tokens"}
    assert tight.generation_tokens == GPU_PRESETS[preset]["generation_tokens"]


def test_keys_beside_a_preset_win_over_it(write):
    path = write(MINIMAL + "gpu: 8gb\ntrain: {tokens_per_micro_batch: 77}\n")
    recipe = load(path)
    assert recipe.train.tokens_per_micro_batch == 77
    assert recipe.generation_tokens == GPU_PRESETS["8gb"]["generation_tokens"]
    both = load(path, ["generation_tokens=5000", "gpu=24gb"])
    assert both.generation_tokens == 5000
    assert (
        both.train.tokens_per_micro_batch == GPU_PRESETS["24gb"]["train"]["tokens_per_micro_batch"]
    )


def test_a_number_with_a_leading_zero_is_decimal():
    assert load("arithmetic", ["seed=08"]).seed == 8


@pytest.mark.parametrize("text", ["5e-6", "5E-6", "0.000005", "5.0e-06"])
def test_yaml_numbers_without_a_point_are_numbers(write, text):
    written = load(write(MINIMAL + f"train: {{learning_rate: {text}}}\n"))
    for recipe in (written, load("arithmetic", [f"train.learning_rate={text}"])):
        assert recipe.train.learning_rate == Rates(designer=5e-6, executor=5e-6)


def test_off_and_no_are_read_by_the_type_of_the_key(write):
    path = write(MINIMAL + "eval: {greedy: off, swap: no}\n")
    assert load(path).eval.greedy is False
    assert load(path).eval.swap is False
    assert "allowed: 'none', 'data' or 'bootstrap'" in refused(path, "cold_start.method=off")


def test_task_on_the_command_line_replaces_the_block(write, tmp_path):
    data = write("{}", "rows.jsonl")
    path = write(f"model: {{}}\ntask: {{name: gsm8k, train: {data}, limit: 5}}\n")
    assert load(path).task.limit == 5
    assert load(path, ["task=mbpp"]).task.train is None
    added = load(path, ["task=mbpp", "task.limit=3", f"task.test={data}"]).task
    assert (added.name, added.limit, added.test) == ("mbpp", 3, str(data))
    assert load(path, ["task.limit=3"]).task.name == "gsm8k"


def test_one_number_sets_both_completion_lengths():
    assert load(
        "arithmetic", ["rollout.max_completion_tokens=9"]
    ).rollout.max_completion_tokens.model_dump() == {"designer": 9, "executor": 9}
    one = load(
        "arithmetic",
        ["rollout.max_completion_tokens=9", "rollout.max_completion_tokens.designer=8"],
    )
    assert one.rollout.max_completion_tokens.model_dump() == {"designer": 8, "executor": 9}


def test_extends_is_looked_up_beside_the_file_first(write):
    write(MINIMAL + "seed: 7\n", "arithmetic.yaml")
    path = write("extends: arithmetic\ntrain: {steps: 2}\n")
    recipe = load(path)
    assert (recipe.seed, recipe.train.steps) == (7, 2)


def test_a_recipe_may_not_extend_itself(write):
    assert "extends itself" in refused(write("extends: mine\n"))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["train.stepz=3"], 'unknown key "train.stepz", did you mean "train.steps"?'),
        (["designs=3"], 'unknown key "designs", did you mean "rollout.designs"?'),
        (["lr=1"], '"lr", did you mean "train.learning_rate"?'),
        (["cold_start.lr=1"], 'did you mean "cold_start.learning_rate"?'),
        (["lora.rank=8"], 'did you mean "lora.r"?'),
        (["rollout.num_generations=8"], 'did you mean "rollout.designs"?'),
        (["cold_start.batchsize=8"], 'did you mean "cold_start.batch_size"?'),
        (["train.beta=0"], 'unknown key "train.beta": there is no KL term'),
        (["task.mix=[{name: a, wieght: 1}]"], 'did you mean "task.mix[0].weight"?'),
        (["schedule.mode=both"], "schedule.mode is \"both\"; allowed: 'stagewise'"),
        (["train.steps=many"], "train.steps must be a valid integer"),
        (["train.steps=true"], "train.steps must be a number"),
        (["train.learning_rate=nan"], "train.learning_rate.designer must be a finite number"),
        (["rollout.designs=0"], "rollout.designs must be greater than 0"),
        (["schedule.period=0"], "schedule.period must be greater than 0"),
        (["lora=3"], "lora must be a block of keys"),
        (["model.max_length=50"], "leaves no room for a prompt"),
        (["train"], 'must look like "train.steps=60"'),
        (["model.name=./no/such"], 'the folder "./no/such" does not exist'),
        (["model.name=llama"], 'an existing folder, or a Hub id "org/name"'),
        (["task.train=no.jsonl"], 'task.train: the file "no.jsonl" does not exist'),
        (["task=no.csv"], 'task.name: the file "no.csv" does not exist'),
        (["task=gsm8"], 'did you mean "gsm8k"?'),
        (["task.mix=[{name: arithmatic}]"], 'did you mean "arithmetic"?'),
        (["task.mix=[{mix: [{name: gsm8k}]}]"], "task holds a mix within a mix"),
        (["task.columns={frage: x}"], "columns names 'frage'; allowed: question, answer, tests"),
        (["seed=4294967296"], "seed must be less than or equal to"),
        (["sandbox.seconds=1e308"], "sandbox.seconds must be less than or equal to"),
        (["threads=100000"], "threads must be less than or equal to"),
        (["train.clip=1e308"], "train.clip must be less than or equal to"),
        (["lora.targets=[]"], "lora.targets"),
        (["model.name=org/"], 'a Hub id "org/name"'),
        (["model.name=~nobody-here/x"], "does not exist"),
        (["task.train=" + "x" * 5000], "does not exist"),
        (["Train.steps=3"], '--set: unknown key "Train", did you mean "train"?'),
        (["trian="], '--set: unknown key "trian", did you mean "train"?'),
        (["seed=" + "[" * 5000], "nested too deeply"),
        (["cold_start.method=data", "cold_start.data=no.jsonl"], 'file "no.jsonl" does not exist'),
    ],
)
def test_mistakes_on_the_command_line(sets, message):
    text = refused("arithmetic", *sets)
    assert message in text
    assert text.startswith("--set") or "arithmetic.yaml: " in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the recipe is empty"),
        ("# only a comment\n", "the recipe is empty"),
        ("- a\n- b\n", "a recipe is a list of `key: value` lines"),
        ("a: [1\n", "not valid YAML"),
        (MINIMAL + "seed: 1\nseed: 2\n", '"seed" stands twice in line 4'),
        (MINIMAL + "train: {steps: 1, steps: 2}\n", '"steps" stands twice'),
        (MINIMAL + "#" * 1_000_000, "longer than 1,000,000 characters"),
        ("[" * 5000, "nested too deeply"),
        (MINIMAL + "seed: !!bool x\n", "not what its tag says"),
        (MINIMAL + "seed: !!python/object/apply:os.getpid []\n", "not valid YAML"),
        ("task: arithmetic\n", 'the key "model" is missing'),
        ("model: {}\n", 'the key "task" is missing'),
        ("model: {}\ntask:\n", 'the key "task" is missing'),
        ("model: {}\ntask: {limit: 3}\n", "needs a name, a train file or a mix"),
        (MINIMAL + "trian: {}\n", 'did you mean "train"?'),
    ],
)
def test_mistakes_in_a_file_name_the_file(write, text, message):
    path = write(text)
    shown = refused(path)
    assert message in shown
    assert shown.startswith(str(path))


def test_an_anchor_may_be_used_again(write):
    mix = "[&first {name: gsm8k, weight: 2}, {<<: *first, name: mbpp}]"
    parts = load(write(f"model: {{}}\ntask: {{mix: {mix}}}\n")).task.mix
    assert [(part.name, part.weight) for part in parts] == [("gsm8k", 2), ("mbpp", 2)]


def test_many_mistakes_stay_short(write):
    text = refused(write("".join(f"wrong{i}: 1\n" for i in range(30)) + MINIMAL))
    assert len(text.splitlines()) == 6
    assert text.endswith("and 25 more")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8 text" in refused(tmp_path / "b.yaml")


def test_keys_that_a_method_does_not_use_are_no_error():
    recipe = load("arithmetic", ["method=single_agent", "cold_start.data=gone.jsonl"])
    assert Path(recipe.cold_start.data).name == "gone.jsonl"


def test_unknown_recipe_names_the_nearest():
    assert 'did you mean "arithmetic"?' in refused("arithmetik")
    assert refused("x" * 5000).startswith("no recipe")
    assert "lists arithmetic, gsm8k" in refused("no-such.yaml")


def test_a_run_folder_is_a_recipe(write, tmp_path):
    path = write(dump(load("arithmetic"), {"torch": "2.13.0"}), "recipe.yaml")
    assert find(tmp_path) == path
    assert load(tmp_path).versions == {"torch": "2.13.0"}


def test_diff_names_the_first_key_and_lets_steps_grow():
    stored = load("arithmetic")
    assert diff(stored, stored) is None
    assert diff(stored, load("arithmetic", [f"train.steps={stored.train.steps + 1}"])) is None
    assert (
        diff(stored, load("arithmetic", [f"train.steps={stored.train.steps - 1}"])) == "train.steps"
    )
    assert diff(stored, load("arithmetic", ["eval.swap=false", "lora.r=2"])) == "lora.r"
    assert diff(stored, stored.model_copy(update={"versions": {"torch": "9"}})) is None


def test_recipes_travel_in_the_wheel():
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert 'recipes = "mxa_lite/recipes"' in text


def test_a_logger_that_is_not_installed_is_refused_with_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert refused("arithmetic", "train.report_to=trackio").startswith(
        "--set: train.report_to: pip install trackio"
    )


def test_vllm_that_is_not_installed_is_refused_with_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "--set: engine: vllm is not installed: pip" in refused("arithmetic", "engine=vllm")


def test_smoke_makes_numbers_small_and_never_larger():
    most = packaged("smoke")
    tiny, whole = flat(smoked(load("miniature"), ())), flat(load("miniature"))
    assert {key for key in whole if whole[key] != tiny[key]} <= most.keys() <= whole.keys()
    assert all(tiny[key] <= most[key] for key in most)
    assert tiny["rollout.max_completion_tokens.executor"] == 44  # of the recipe, and below 96


def test_a_setting_wins_over_smoke():
    sets = ["train.steps=7", "rollout={designs: 5}"]
    recipe = smoked(load("arithmetic", sets), sets)
    assert (recipe.train.steps, recipe.rollout.designs, recipe.eval.questions) == (7, 5, 4)


def test_a_usual_name_leads_to_a_key_that_there_is():
    keys = flat(load("arithmetic")).keys() | {"task"}
    blocks = {key.rpartition(".")[0] for key in keys}
    assert {key for key in packaged("usual") if " " not in key} <= keys | blocks
