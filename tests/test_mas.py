"""The nodes of the script language against canned replies.

"Fault" in a docstring is one of the paper's public code that must not come back.
"""

import random
import threading

import pytest
from fake_client import QUESTION, run

from mxa_lite.mas import script as mas
from mxa_lite.mas.nodes import says_correct
from mxa_lite.texts import prompts

AGENT = 'a = Agent("solver", "Work step by step.")\n'
TWO = AGENT + 'b = Agent("other", "Be quick.")\n'


def box(value):
    return f"<delivery>it is {value}</delivery> \\boxed{{{value}}}"


def test_an_agent_gets_its_prompt_and_the_question():
    client = run(AGENT + "answer(a(question))", solver=box(5))
    assert client.answers == [box(5)]
    assert client.calls[0].messages == [
        {"role": "system", "content": prompts.agent_system("Work step by step.")},
        {"role": "user", "content": QUESTION},
    ]
    assert (client.calls[0].path, client.calls[0].number) == ("0", 0)


def test_the_same_agent_object_votes_three_times_each_with_its_own_path():
    script = AGENT + 'answer(Ensemble("vote", [a] * 3)(question))'
    client = run(script, solver=lambda call: box({"0.0": 7, "0.1": 5, "0.2": 5}[call.path]))
    assert client.answers == [box(5)]
    assert sorted(call.path for call in client.calls) == ["0.0", "0.1", "0.2"]


def test_members_of_an_ensemble_call_concurrently():
    meet = threading.Barrier(3, timeout=60)  # breaks unless three calls wait at once
    script = AGENT + 'answer(Ensemble("vote", [a] * 3)(question))'
    client = run(script, solver=lambda call: (meet.wait(), box(5))[1])
    assert client.answers == [box(5)]


def test_debaters_of_a_round_call_concurrently():
    meet = threading.Barrier(2, timeout=60)

    def reply(call):
        if call.path != "0.4":  # the judge
            meet.wait()
        return box(5)

    client = run(TWO + 'answer(Debate("d", [a, b])(question))', solver=reply, other=reply)
    assert client.answers == [box(5)] and len(client.calls) == 5


@pytest.mark.parametrize(
    ("replies", "winner"),
    [
        ([box(5), box(7), box(5)], box(5)),
        ([box("1/2"), box(7), box("0.5")], box("1/2")),
        ([box(7), box(r"\frac{1}{2}"), box("0.5")], box(r"\frac{1}{2}")),
        ([box(5), box(7), box(9)], box(5)),
        ([box(7), box(5), box(5), box(7)], box(7)),
        (["no box", box(5), box(7)], box(5)),
        (["first", "second", "second"], "first"),
        (["the answer is 7", "7", box(5)], box(5)),
    ],
)
def test_the_vote_is_scored_as_it_decided(replies, winner):
    """Fault: with votes 5, 7, 5, the winner was 5 and its score that of 7. Values are
    compared as answers, ties go to the first, replies without a box do not vote."""
    names = [f"s{i}" for i in range(len(replies))]
    script = "".join(f'{n} = Agent("{n}", "p")\n' for n in names)
    script += f'answer(Ensemble("vote", [{", ".join(names)}])(question))'
    client = run(script, **dict(zip(names, replies, strict=True)))
    assert client.answers == [winner]


def test_the_judge_decides_a_split_only():
    script = TWO + 'answer(Ensemble("v", [a, b], consensus_agent=Agent("judge", "j"))(question))'
    agreed = run(script, solver=box("0.5"), other=box("1/2"), judge=box(9))
    assert agreed.agents == ["solver", "other"] and agreed.answers == [box("0.5")]
    split = run(script, solver=box(5), other=box(7), judge=box(7))
    assert split.agents == ["solver", "other", "judge"] and split.answers == [box(7)]
    seen = [("solver", r"it is 5 \boxed{5}"), ("other", r"it is 7 \boxed{7}")]
    assert split.calls[-1].user == prompts.judge(QUESTION, seen)


def test_weights_stay_with_their_agents_when_one_fails():
    """Fault: weights were zipped with the replies that survived, so they shifted."""
    names = ["s0", "s1", "s2"]
    script = "".join(f'{n} = Agent("{n}", "p")\n' for n in names)
    script += 'answer(Ensemble("v", [s0, s1, s2], "weighted_vote", weights=[9, 1, 3])(question))'
    client = run(script, s0=ValueError("cut"), s1=box(5), s2=box(7))
    assert client.answers == [box(7)]
    assert run(script, s0=box(1), s1=box(5), s2=box(5)).answers == [box(1)]


def test_an_ensemble_whose_members_all_fail_is_an_error():
    with pytest.raises(RuntimeError, match=r"all members of v failed: ValueError: cut"):
        run(AGENT + 'answer(Ensemble("v", [a] * 2)(question))', solver=ValueError("cut"))


def test_code_votes_compare_programs():
    """Fault: weighted votes knew boxes only. Comments and layout do not make a split."""
    names = ["s0", "s1", "s2"]
    script = "".join(f'{n} = Agent("{n}", "p")\n' for n in names)
    script += 'answer(Ensemble("v", [s0, s1, s2], "weighted_vote")(question))'
    one = "<solution>print(1)</solution>"
    same = "<solution>\n```python\nprint( 1 )  # one\n```\n</solution>"
    replies = {"s0": "<solution>print(2)</solution>", "s1": one, "s2": same}
    assert run(script, kind="code", **replies).answers == [one]


@pytest.mark.parametrize(
    "call",
    [
        'Ensemble("v", [])',
        'Ensemble("v", [a], "consensus")',
        'Ensemble("v", [a], "best")',
        'Ensemble("v", [a, a], weights=[1])',
        'Debate("d", [])',
        'Router("r", {}, len)',
        'ToolRegistry().register("search")',
    ],
)
def test_a_node_that_cannot_work_says_so_when_it_is_built(call):
    with pytest.raises(ValueError):
        run(AGENT + call, solver=box(5))


def test_debate_rounds_show_everybodys_last_answers_and_the_question():
    """Fault: behind another node a debate took the last message for the question."""
    script = TWO + (
        'w = Workflow("w").add_node(Agent("first", "p"))\n'
        'w.add_node(Debate("d", [a, b], judge=Agent("judge", "j"), num_rounds=2)).run(question)'
    )
    client = run(script, first=box(1), solver=[box(5), box(6)], other=[box(7), box(8)], judge="j")
    assert client.agents == ["first", "solver", "other", "solver", "other", "judge"]
    start = prompts.follow_up(QUESTION, [("first", r"it is 1 \boxed{1}")])
    assert client.at("0.1.0").user == client.at("0.1.1").user == start
    seen = [("solver", r"it is 5 \boxed{5}"), ("other", r"it is 7 \boxed{7}")]
    assert client.at("0.1.2").user == client.at("0.1.3").user == prompts.debate(QUESTION, seen)
    seen = [("solver", r"it is 6 \boxed{6}"), ("other", r"it is 8 \boxed{8}")]
    assert client.at("0.1.4").user == prompts.judge(QUESTION, seen)
    assert client.answers == ["j"]


def test_without_a_judge_the_first_debater_judges():
    script = TWO + 'answer(Debate("d", [a, b], num_rounds=1)(question))'
    client = run(script, solver=[box(5), box(9)], other=box(7))
    assert client.agents == ["solver", "other", "solver"] and client.answers == [box(9)]


def test_a_debater_that_fails_once_keeps_its_earlier_answer():
    script = TWO + 'answer(Debate("d", [a, b], Agent("judge", "j"))(question))'
    client = run(script, solver=box(5), other=[box(7), ValueError("x")], judge="j")
    assert "it is 7" in client.at("0.4").user


@pytest.mark.parametrize(
    ("critique", "correct"),
    [
        ("VERDICT: CORRECT", True),
        ("<delivery>VERDICT: CORRECT</delivery>", True),
        ("**Verdict:** correct.", True),
        ("VERDICT:\nCORRECT", True),
        ("Verdict: the answer is correct", True),
        ("All steps are correct.", True),
        ("VERDICT: INCORRECT", False),
        ("The solution is INCORRECT", False),
        ("VERDICT: NOT CORRECT", False),
        ("VERDICT: it isn't correct", False),
        ("This is not correct.", False),
        ("VERDICT: CORRECT or VERDICT: INCORRECT", False),
        ("VERDICT: CORRECT or INCORRECT", False),
        ("First VERDICT: CORRECT, no: VERDICT: INCORRECT", False),
        ("VERDICT: PARTIALLY CORRECT", False),
        ("VERDICT: CORRECTION NEEDED", False),
        ("The correct unit is metres", False),
        ("", False),
    ],
)
def test_a_verdict_is_a_word(critique, correct):
    """Fault: INCORRECT ended with CORRECT, so a failed review kept the wrong answer."""
    assert says_correct(critique) is correct


def test_reflection_refines_until_correct():
    """INCORRECT leads to a refinement, CORRECT to none."""
    script = AGENT + 'answer(Reflection("r", a, Agent("critic", "c"))(question))'
    critic = ["wrong carry. VERDICT: INCORRECT", "VERDICT: CORRECT"]
    client = run(script, solver=[box(7), box(5)], critic=critic)
    assert client.agents == ["solver", "critic", "solver", "critic"]
    assert client.answers == [box(5)]
    shown = r"it is 7 \boxed{7}"
    assert client.at("0.1").user == prompts.critique(QUESTION, shown)
    assert client.at("0.2").user == prompts.refine(QUESTION, shown, critic[0])
    at_once = run(script, solver=box(7), critic="VERDICT: CORRECT")
    assert at_once.agents == ["solver", "critic"] and at_once.answers == [box(7)]


@pytest.mark.parametrize(
    ("arguments", "agents"),
    [
        ("c, 1, None, None, True", "aca"),
        ("1, None, c", "aca"),
        ("1, 'Look.', c, 'Again.', True", "aca"),
        ("1, critic_agent=c", "aca"),
        ("num_iterations=1, critic_agent=c", "aca"),
        ("c, num_iterations=1", "aca"),
        ("None, 1", "aaa"),
    ],
)
def test_reflection_takes_the_papers_order_of_arguments_and_the_short_one(arguments, agents):
    """Fault: a critic in the paper's place was taken for a prompt."""
    nodes = 'a, c = Agent("a", "p"), Agent("c", "p")\n'
    client = run(nodes + f'ReflectionNode("r", a, {arguments})(question)', a="x", c="wrong")
    assert client.agents == list(agents)


def test_agents_take_the_papers_order_of_arguments_and_the_short_one():
    tools = 'tools = ToolRegistry().register("python")\n'
    ask = '<tool_call>{"name": "python", "arguments": {"code": "1"}}</tool_call>'
    for arguments in ("tools, None, 2, False", "tools, 2", "tools, 2, 0.5"):
        client = run(tools + f'AgentNode("a", "p", {arguments})(question)', a=ask)
        assert len(client.calls) == 3
    assert client.calls[0].temperature == 0.5


def test_results_tell_how_they_came_about_as_in_the_papers_package():
    script = TWO + (
        "def result(node):\n    return Workflow('w').add_node(node).run(question)\n"
        "vote = result(Ensemble('v', [a, b])).metadata\n"
        "assert (vote['strategy'], vote['num_agents']) == ('majority_vote', 2)\n"
        "assert vote['all_responses'] == ['5', 'wrong']\n"
        "debate = result(Debate('d', [a, b], num_rounds=3)).metadata\n"
        "assert (debate['num_rounds'], debate['num_debaters']) == (3, 2)\n"
        "assert debate['debate_history'] == [['5', 'wrong']] * 3\n"
        "critic = result(Reflection('r', a, b, num_iterations=1)).metadata\n"
        "assert (critic['mode'], critic['critic_agent']) == ('critic-based', 'other')\n"
        "assert [h['iteration'] for h in critic['history']] == [0, 1]\n"
        "assert critic['history'][1]['reflection'] == 'wrong'\n"
        "alone = result(Reflection('r', a, num_iterations=0)).metadata\n"
        "assert alone['mode'] == 'self-reflection' and len(alone['history']) == 1\n"
        "routed = result(Router('q', {'x': a, 'y': b}, lambda c: 'y', 'x'))\n"
        "assert routed.metadata['route_taken'] == 'y' and routed.metadata['routed_from'] == 'q'\n"
        "agent = result(b)\n"
        "assert agent.metadata['agent_name'] == 'other' and agent.metadata['tokens'] == 1\n"
        "data = agent.to_dict()\n"
        "assert (data['content'], data['type']) == ('wrong', 'agent_response')\n"
        "assert set(data) == {'content', 'type', 'metadata', 'sender', 'recipient'}\n"
        "assert vars(Message.from_dict(data)) == vars(agent)\n"
        "answer('held')"
    )
    assert run(script, solver="5", other="wrong").answers == ["held"]


def test_an_error_message_names_the_exception(capsys):
    script = TWO + "print(Workflow('w').add_node(a).run(question).metadata['exception_type'])"
    run(script, solver=ValueError("cut"))
    assert capsys.readouterr().out == "NodeError\n"


@pytest.mark.parametrize("arguments", ["num_iterations=2", "None, 2", "2"])
def test_reflection_without_a_critic_asks_the_agent_and_is_bounded(arguments):
    client = run(AGENT + f'answer(Reflection("r", a, {arguments})(question))', solver="no")
    assert client.agents == ["solver"] * 5


def test_reflection_prompts_may_hold_braces():
    r"""Fault: prompts went through str.format, so \boxed{answer} raised KeyError."""
    script = AGENT + (
        r'answer(Reflection("r", a, num_iterations=1, reflection_prompt="Q {question} S {solution}'
        r' as \\boxed{answer} {x: 1} {}", refinement_prompt="Use {reflection}")(question))'
    )
    client = run(script, solver=["first {question}", "bad {solution}", "second"])
    assert (
        client.at("0.1").user
        == rf"Q {QUESTION} S first {{question}} as \boxed{{answer}} {{x: 1}} {{}}"
    )
    standard = prompts.refine(QUESTION, "first {question}", "bad {solution}")
    assert client.at("0.2").user == f"Use bad {{solution}}\n{standard}"


def test_reflection_history():
    script = AGENT + 'Reflection("r", a, Agent("c", "c"), include_history=True)(question)'
    client = run(script, solver=["1", "2", "3"], c=["bad one", "bad two"])
    assert client.at("0.4").user == prompts.refine(QUESTION, "2", "bad one\nbad two")
    last = run(
        script.replace(", include_history=True", ""), solver=["1", "2", "3"], c=["one", "two"]
    )
    assert last.at("0.4").user == prompts.refine(QUESTION, "2", "two")


def test_reflection_keeps_its_solution_when_the_critic_fails():
    script = AGENT + 'answer(Reflection("r", a, Agent("c", "c"))(question))'
    assert run(script, solver="1", c=ValueError("x")).answers == ["1"]


def test_the_router_runs_the_named_route_or_the_default(capsys):
    """Fault: the routed message was appended twice and lost its sender; and a routing
    function that compared message types was always false, for there were two copies of the enum."""
    script = TWO + (
        "from workflow.core import MessageType\n"
        "def route(context):\n"
        "    if context.get_latest_message().message_type == MessageType.USER_INPUT:\n"
        "        return 'long' if 'What' in context.question else 'nowhere'\n"
        "    raise ValueError\n"
        'r = Router("r", {"default": a, "long": b}, route)\n'
        "context = Context([Message(question, MessageType.USER_INPUT)])\n"
        "r(context)\n"
        "print(len(context.messages), context.messages[-1].sender)\n"
        "r(context)\n"
        "print(len(context.messages), context.messages[-1].sender)\n"
    )
    client = run(script, solver="s", other="o")
    assert client.agents == ["other", "solver"]
    assert client.calls[1].user == prompts.follow_up(QUESTION, [("other", "o")])
    assert capsys.readouterr().err == "router r: ValueError(); the default route\n"


def test_the_router_appends_once_and_keeps_the_sender(capsys):
    script = TWO + (
        'r = Router("r", {"x": a, "default": b}, lambda context: "x")\n'
        "context = Context([Message(question, MessageType.USER_INPUT)])\n"
        "r(context)\nprint([m.sender for m in context.messages])"
    )
    run(script, solver="s")
    assert capsys.readouterr().out == "[None, 'solver']\n"


def test_temperature_is_per_agent():
    """Fault: an agent's temperature was dropped, training decoded greedily."""
    script = 'Agent("hot", "p", temperature=1.5)(question)\nAgent("plain", "p")(question)'
    client = run(script, hot="x", plain="x")
    assert [call.temperature for call in client.calls] == [1.5, None]


def test_the_system_prompt_is_never_printed(capsys):
    """Fault: nodes echoed prompts with delivery tags to stdout, where format reward was read."""
    run(AGENT + "answer(a(question))", solver=box(5))
    assert capsys.readouterr().out == ""


def test_replies_are_text_and_work_as_input_of_later_nodes():
    script = TWO + (
        "r = a(question)\nassert isinstance(r, str) and r.content == r and r.upper()\n"
        "b(r)\nb(question, r, r)\nb(f'{question} Read this: {r}')\nb('Be brief.')\nb('')\nb([r])\n"
    )
    client = run(script, solver=box(5), other="ok")
    seen = ("solver", r"it is 5 \boxed{5}")
    assert [call.user for call in client.calls[1:]] == [
        prompts.follow_up(QUESTION, [seen]),
        prompts.follow_up(QUESTION, [seen, seen]),
        f"{QUESTION} Read this: {box(5)}",
        prompts.follow_up(QUESTION, [("input", "Be brief.")]),
        QUESTION,
        prompts.follow_up(QUESTION, [seen]),
    ]
    assert [node["parents"] for node in client.nodes[1:3]] == [["0"], ["0"]]


@pytest.mark.parametrize("call", ["a(text)", 'Workflow("w").add_node(a).run(text)'])
def test_a_pasted_question_is_the_question(call):
    r"""Fault: designs had to paste the question, and \frac became a form feed."""
    question = "Simplify \\frac{1}{2} \\times 4\nas a number."
    pasted = "text = '''  Simplify \\frac{1}{2} \\times 4 as a number. '''\n"
    client = run(AGENT + pasted + call, question=question, solver="2")
    assert client.calls[0].user == question


def test_an_error_in_a_functional_call_is_raised():
    with pytest.raises(ValueError, match="too long"):
        run(AGENT + "answer(a(question))", solver=ValueError("too long"))


@pytest.mark.parametrize(
    "body",
    [
        "a(question)",
        'Ensemble("v", [a] * 3)(question)',
        'Debate("d", [a, a])(question)',
        'Reflection("r", a)(question)',
        'Workflow("w").add_node(Router("r", {"x": a}, lambda c: "x")).run(question)',
    ],
)
def test_a_refused_call_ends_the_script_whatever_it_catches(body):
    source = AGENT + f"try:\n    {body}\nexcept Exception:\n    answer('7')\n"
    with pytest.raises(GeneratorExit):
        run(source, solver=GeneratorExit("no Exception"))


def test_nodes_are_recorded_with_their_parents_in_a_fixed_order():
    script = TWO + 'Workflow("w").add_node(Ensemble("e", [a, b])).add_node(b).run(question)'
    for _ in range(5):
        client = run(script, solver=box(5), other=box(7))
        found = [(n["kind"], n["name"], n["path"], n["parents"]) for n in client.nodes]
        assert found == [
            ("agent", "solver", "0.0.0", []),
            ("agent", "other", "0.0.1", []),
            ("ensemble", "e", "0.0", []),
            ("agent", "other", "0.1", ["0.0"]),
            ("workflow", "w", "0", []),
        ]
    assert client.nodes[0]["output"] == box(5) and client.nodes[0]["error"] is None


def test_a_node_that_fails_is_recorded_with_its_error():
    script = TWO + 'answer(Ensemble("e", [a, b])(question))'
    client = run(script, solver=ValueError("cut"), other=box(7))
    assert client.nodes[0]["error"] == "ValueError: cut" and client.nodes[0]["output"] is None
    assert client.answers == [box(7)]


def test_judges_and_refinements_have_what_they_saw_as_parents():
    script = TWO + 'Debate("d", [a, b])(question)'
    client = run(script, solver=box(5), other=box(7))
    parents = {node["path"]: node["parents"] for node in client.nodes}
    assert parents["0.2"] == parents["0.3"] == ["0.0", "0.1"] and parents["0.4"] == ["0.2", "0.3"]


def test_nodes_nest_to_any_depth():
    script = TWO + (
        'pair = Reflection("r", a, Agent("critic", "c"), num_iterations=1)\n'
        'inner = Workflow("inner").add_node(pair).add_node(b)\n'
        'team = Ensemble("team", [inner, Debate("d", [a, b], num_rounds=1)], "consensus", pair)\n'
        "answer(team(question))"
    )
    client = run(script, solver=box(5), other=box(5), critic="VERDICT: CORRECT")
    assert client.agents == [
        *("solver", "critic", "other"),  # inner
        *("solver", "other", "solver"),  # debate
        *("solver", "critic"),  # judge
    ]
    assert client.answers == [box(5)]


def test_outside_a_run_there_is_no_model():
    mas.runtime.bind(None, "", "math")
    with pytest.raises(RuntimeError, match="no model here"):
        mas.Agent("a", "p")("hello")


def test_random_is_seeded():
    run("import random\nglobals()['__builtins__']\nassert random.random() == 0.13436424411240122")
    assert random.Random(1).random() == 0.13436424411240122
