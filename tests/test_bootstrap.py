import itertools
import json
from collections import Counter
from types import SimpleNamespace

import pytest

from mxa_lite.errors import InputError, RunError
from mxa_lite.learn import bootstrap, warmstart
from mxa_lite.learn.bootstrap import Bootstrap, Sample, chosen
from mxa_lite.mas.check import check
from mxa_lite.policy.generate import Engine as RealEngine
from mxa_lite.policy.generate import EngineStats
from mxa_lite.policy.request import Completion
from mxa_lite.recipe.file import load
from mxa_lite.rollout.canned import Canned, Ungraded
from mxa_lite.rollout.opened import load_policy, sampler_for
from mxa_lite.rollout.sampler import Sampler
from mxa_lite.runfolder import RunFolder
from mxa_lite.sandbox.box import Limits, Sandbox
from mxa_lite.tasks import load as tasks
from mxa_lite.tasks.grade import Verdict
from mxa_lite.texts import prompts
from mxa_lite.tree import Call, Design, Execution, Outcome, Question

FORMAL = "<delivery>\\boxed{1}</delivery>\n<solution>\nprint(1)\n</solution>"
SETS = ["rollout.designs=2", "cold_start.steps=2", "cold_start.seed_designs=2", "threads=1"]
QUESTIONS = [Question(f"q{i}", f"What is 2 + {i}?", "t", gold=str(2 + i)) for i in range(4)]
VOTE = "a = Agent('s', 'Add.')\nanswer(Ensemble('v', [a, a, a])(question))"


class Engine:
    """Says one text per role; knows how long a prompt is in words."""

    def __init__(self, designer, executor="\\boxed{4}", max_length=100_000):
        self.texts = {"designer": designer, "executor": executor}
        self.stats, self.max_length = EngineStats(), max_length
        self.policy = SimpleNamespace(names=())

    def generate(self, requests):
        return [self.reply(r) for r in requests]

    def reply(self, request):
        text, last = self.texts[request.role], request.messages[-1]
        begun = last["content"] if last["role"] == "assistant" else ""
        return Completion(text.removeprefix(begun), [1], [2], [0.0], False, False)

    def encode(self, messages, room):
        words = " ".join(m["content"] for m in messages).split()
        return words, len(words) > room


class Grader:
    def grade_many(self, pairs):
        return [Verdict(float(q.gold == answer), "") for q, answer in pairs]


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(Limits(5)) as box:
        yield box


def rounds(sandbox, folder, engine, *sets):
    recipe = load("arithmetic", [*SETS, *sets])
    said = []
    sampler = Sampler(engine, sandbox, Grader(), recipe)
    boot = Bootstrap(sampler, lambda n, k: QUESTIONS[:k], RunFolder(folder), said.append)
    return boot, said


def lines(folder, number=1):
    return [json.loads(x) for x in (folder / f"cold_start/round-{number}.jsonl").open()]


def design(script, right=False, question=QUESTIONS[2], outcome=Outcome.OK):
    checked = check(script)
    run = Execution(outcome, "4", [Call("s", "", 0, [], "\\boxed{4}")])
    made = Design(Call("designer", "", 0, []), script, checked.pattern, executions=[run])
    return Sample(question, made, right)


@pytest.mark.parametrize("kind", ["math", "code"])
def test_every_example_runs_and_is_of_the_pattern_it_is_shown_for(sandbox, kind):
    question = Question("q", "How many?", "t", kind)
    scripts = [
        (pattern, prompts.example(pattern, kind, pick))
        for pattern, pick in itertools.product(prompts.PATTERNS, range(4))
    ]
    engine = Canned({"*": [FORMAL]})
    sampler = Sampler(engine, sandbox, Ungraded(), load("arithmetic"))
    made = [sampler.checked(Call("designer", "", 0, [], text)) for _, text in scripts]
    assert [d.pattern for d in made] == [pattern for pattern, _ in scripts]
    sampler.run_scripts([(question, d) for d in made], 0.0)
    assert all(bootstrap.ran(d) for d in made)
    assert len({text for _, text in scripts}) == len(scripts)


def test_every_line_of_the_language_runs_as_it_is_written(sandbox):
    parts = [line.partition("    ")[0] for line in prompts.LANGUAGE.splitlines() if "    " in line]
    assert len(parts) == 8
    engine = Canned({"*": [FORMAL]})
    sampler = Sampler(engine, sandbox, Ungraded(), load("arithmetic"))
    for part in parts:
        run = part.removeprefix("a = ") + "(question)" * (".run(" not in part)
        script = f'a = b = c = j = Agent("x", "y")\nanswer({run})'
        made = sampler.checked(Call("designer", "", 0, [], f"```python\n{script}\n```"))
        sampler.run_scripts([(QUESTIONS[0], made)], 0.0)
        assert bootstrap.ran(made), part


def test_the_designer_is_shown_every_pattern_in_turn_and_what_fits(sandbox):
    recipe = load("arithmetic", ["rollout.max_completion_tokens=10"])
    taught = bootstrap._Taught(Engine(""), sandbox, Grader(), recipe)
    shown = [taught.designer_prompt(QUESTIONS[0]) for _ in prompts.PATTERNS]
    assert [m[-1]["content"].split("Pattern: ")[1].split(",")[0] for m in shown] == [
        *prompts.PATTERNS
    ]
    assert {len(m) for m in shown} == {1 + 3 * 2 + 1}
    assert all(QUESTIONS[0].text in m[-1]["content"] for m in shown)
    taught.engine.max_length = len(taught.engine.encode(shown[0], 0)[0]) - 20
    assert len(taught.designer_prompt(QUESTIONS[0])) == 1 + 2 + 2 + 1


def test_no_pattern_outweighs_the_others_and_no_script_comes_twice():
    votes = [design(f"{VOTE}\nx = {i}", right=True) for i in range(9)]
    single = design("a = Agent('s')\nanswer(a(question))", right=True)
    twin = design("a = Agent('s')\n\nanswer( a(question) )  # again", right=True)
    only_ran = design("a = Agent('t')\nanswer(a(question))")
    kept = chosen([*votes, single, twin, only_ran], 8)
    assert Counter(s.design.pattern for s in kept) == {"vote": 5, "single": 1}
    assert twin not in kept and only_ran not in kept


def test_scripts_that_ran_fill_up_where_too_few_are_correct():
    right, ran = design(VOTE, right=True), design(f"{VOTE}\nx = 1")
    crashed = design(f"{VOTE}\nx = 2", outcome=Outcome.CRASHED)
    assert chosen([crashed, ran, right], 8) == [right, ran]


def test_a_wrong_or_cut_reply_of_a_correct_execution_is_not_learned():
    sample = design(VOTE, right=True)
    messages = [{"role": "user", "content": "?"}]
    sample.design.executions[0].calls = [
        Call("a", "0", 0, messages, "\\boxed{4}"),
        Call("b", "1", 0, messages, "\\boxed{5}"),
        Call("c", "2", 0, messages, "I think", truncated=True),
        Call("critic", "3", 0, messages, "VERDICT: CORRECT"),
    ]
    rows = list(sample.rows(True))[1:]
    assert [row["agent"] for row in rows if row["kept"]] == ["a", "critic"]


def test_given_data_reads_back_what_was_kept_and_nothing_else(sandbox, tmp_path):
    boot, said = rounds(sandbox, tmp_path, Engine(f"```python\n{VOTE}\n```"), "cold_start.rounds=1")
    boot.run()
    chats = warmstart.read_chats(tmp_path / "cold_start/round-1.jsonl")
    assert chats["designer"][0][:-1] == prompts.designer(QUESTIONS[0].text)
    assert all(chat[-1]["content"].startswith("```python\n") for chat in chats["designer"])
    rows = lines(tmp_path)
    assert len(chats["designer"]) == sum(r["kept"] for r in rows if r["role"] == "designer")
    assert any(not row["kept"] for row in rows)
    right = [r for r in rows if r["role"] == "executor" and r["kept"]]
    assert {row["question"] for row in right} == {"q2"}
    assert boot.chats["executor"] == [right[0]["messages"]]  # equal chats once
    assert "100% valid" in said[0] and "-> 100%" in said[-1]


def test_one_file_holds_what_all_rounds_taught(sandbox, tmp_path):
    boot, _ = rounds(sandbox, tmp_path, Engine(f"```python\n{VOTE}\n```", "four"))
    for number in (1, 2):
        boot.learn(number, boot.sample(number, 0.0))
    kept = [row["messages"] for n in (1, 2) for row in lines(tmp_path, n) if row["kept"]]
    assert {chat[-1]["content"] for chat in boot.chats["designer"]} == {
        chat[-1]["content"] for chat in kept
    }
    assert warmstart.read_chats(tmp_path / "cold_start/chats.jsonl") == boot.chats


def test_agents_of_examples_are_shown_a_worked_result_and_learn_without_it(sandbox, tmp_path):
    class Follower(Engine):
        def reply(self, request):
            shown = any("\\boxed{62}" in m["content"] for m in request.messages)
            self.texts["executor"] = "\\boxed{4}" if shown else "four"
            return super().reply(request)

    boot, _ = rounds(sandbox, tmp_path, Follower("I cannot."), "cold_start.seed_designs=4")
    boot.learn(1, boot.sample(1, 0.0))
    learned = boot.chats["executor"]
    assert learned and all("\\boxed{4}" in chat[-1]["content"] for chat in learned)
    assert all(len(chat) == 3 for chat in learned)


def test_a_designer_that_does_better_without_examples_is_shown_none(sandbox, tmp_path):
    class Watched(Engine):
        seen = None

        def reply(self, request):
            if request.role == "designer":
                self.seen = len(request.messages)
            return super().reply(request)

    engine = Watched(f"```python\n{VOTE}\n```")
    boot, _ = rounds(sandbox, tmp_path, engine)
    boot.sample(1, 0.0)
    assert engine.seen == 1 + 3 * 2 + 1
    boot.valid_shown = 0.5
    boot.sample(2, 0.9)
    assert engine.seen == 2


@pytest.mark.parametrize(
    "messages",
    [
        [{"content": "?"}, {"role": "assistant", "content": "!"}],
        [{"role": "assistant", "content": "!"}],
    ],
)
def test_a_chat_that_no_template_takes_is_named_by_its_line(tmp_path, messages):
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"role": "executor", "messages": messages}))
    with pytest.raises(InputError, match="line 1"):
        warmstart.read_chats(path)


def test_chats_are_read_by_lines_and_a_file_that_is_no_text_is_refused(tmp_path):
    user, reply = {"role": "user", "content": "a\u2028b"}, {"role": "assistant", "content": "c"}
    row = {"role": "executor", "messages": [user, reply]}
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert warmstart.read_chats(path)["executor"] == [[user, reply]]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        warmstart.read_chats(path)


def test_a_long_prompt_leaves_room_for_the_reply_that_is_learned():
    recipe = load("arithmetic", SETS)
    engine = RealEngine(load_policy(recipe), 64, 4096)
    chat = [{"role": "user", "content": "pens " * 200}, {"role": "assistant", "content": "2 pens"}]
    (row,) = warmstart.rows(engine, [chat])
    assert len(row["input_ids"]) == 64
    assert row["completion_mask"][-1] == 1 and sum(row["completion_mask"]) >= 3


def test_a_model_that_never_writes_a_script_ends_with_advice(sandbox, tmp_path):
    boot, said = rounds(sandbox, tmp_path, Engine("I cannot."), "cold_start.seed_designs=0")
    with pytest.raises(RunError, match=r"no valid script in 2 rounds.*bigger.*rounds.*data"):
        boot.run()
    assert not coldstart_kept(lines(tmp_path, 2))
    assert any("kept 0 scripts" in line for line in said)


def coldstart_kept(rows):
    return [row for row in rows if row["kept"]]


def test_examples_take_patterns_in_turn(sandbox):
    sampler = Sampler(Engine(""), sandbox, Grader(), load("arithmetic", SETS))
    made = bootstrap.examples(sampler, QUESTIONS * 3)
    assert Counter(s.design.pattern for s in made) == dict.fromkeys(prompts.PATTERNS, 2)
    assert len({s.design.script for s in made}) == 12
    assert [s.correct for s in made] == [s.question.id == "q2" for s in made]


def test_the_embedded_model_bootstraps_itself(tmp_path):
    recipe = load("arithmetic", [*SETS, "cold_start.questions=4", "cold_start.rounds=1"])
    data = tasks.load(recipe.task, 1)
    policy = load_policy(recipe)
    before = {n: p.detach().clone() for n, p in policy.model.named_parameters() if "lora_B" in n}
    said = []
    with sampler_for(recipe, policy) as sampler:
        Bootstrap(sampler, lambda n, k: data.train[:k], RunFolder(tmp_path), said.append).run()
    rows = lines(tmp_path)
    assert sum(r["role"] == "designer" and not r["example"] for r in rows) == 8
    learned = {row["role"] for row in rows if row["kept"]}
    after = dict(policy.model.named_parameters())
    changed = {
        n.split(".lora_B.")[1].split(".")[0] for n in before if (before[n] != after[n]).any()
    }
    assert changed == learned and "designer" in changed
    assert "valid scripts" in said[0] and any("training on" in line for line in said)
