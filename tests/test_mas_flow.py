"""Containers, whole scripts, and the paper's patterns in the paper's class names.

"Fault" in a docstring is one of the paper's public code that must not come back.
"""

import pytest
from fake_client import QUESTION, FakeClient, run

from mxa_lite.mas import script as mas
from mxa_lite.texts import prompts

PAPER = "from workflow import Workflow, AgentNode, EnsembleNode, DebateNode, ReflectionNode\n"
NODES = 'a = Agent("a", "p")\nb = Agent("b", "p")\n'


def box(value):
    return f"<delivery>it is {value}</delivery> \\boxed{{{value}}}"


def seen(*pairs):
    """(agent, value) pairs as other agents are shown them."""
    return [(name, f"it is {value} \\boxed{{{value}}}") for name, value in pairs]


# the paper's patterns


def solvers(*names):
    return "".join(
        f'{n} = AgentNode(name="{n}", system_prompt="{n} it", tool_registry=ToolRegistry(),'
        " max_turns=1, ai_client=None, enable_conversation_logging=True)\n"
        for n in names
    )


def paper(nodes, agents):
    lines = "".join(f"workflow.add_node({node})\n" for node in nodes)
    return (
        PAPER
        + "from workflow.core import ToolRegistry\n"
        + solvers(*agents)
        + 'workflow = Workflow(name="w", ai_client=None, tokenizer=None)\n'
        + lines
        + "result = workflow.run(question)\nprint(result.content)\n"
    )


VOTE = 'EnsembleNode("vote", [alg, geo, num], strategy="majority_vote"{})'


def test_pattern_single_agent():
    client = run(paper(["alg"], ["alg"]), alg=box(5))
    assert [(call.agent, call.user) for call in client.calls] == [("alg", QUESTION)]
    assert client.calls[0].system == prompts.agent_system("alg it")
    assert client.answers == [box(5)]


def test_pattern_three_solvers_and_a_judge_on_a_split():
    script = paper([VOTE.format(", consensus_agent=judge")], ["alg", "geo", "num", "judge"])
    agreed = run(script, alg=box(5), geo=box("5.0"), num=box(5), judge=box(1))
    assert agreed.agents == ["alg", "geo", "num"] and agreed.answers == [box(5)]
    split = run(script, alg=box(5), geo=box(7), num=box(5), judge=box(5))
    assert split.agents == ["alg", "geo", "num", "judge"] and split.answers == [box(5)]
    shown = seen(("alg", 5), ("geo", 7), ("num", 5))
    assert split.calls[-1].user == prompts.judge(QUESTION, shown)
    assert {call.user for call in split.calls[:3]} == {QUESTION}


def test_pattern_ensemble_and_judge():
    node = 'EnsembleNode("panel", [alg, geo], strategy="consensus", consensus_agent=judge)'
    script = paper([node], ["alg", "geo", "judge"])
    client = run(script, alg=box(5), geo=box(5), judge=box(6))
    assert client.agents == ["alg", "geo", "judge"] and client.answers == [box(6)]


def test_pattern_solver_and_critic():
    node = 'ReflectionNode("r", agent=alg, critic_agent=critic, num_iterations=2)'
    script = paper([node], ["alg", "critic"])
    client = run(
        script,
        alg=[box(4), box(5)],
        critic=["off by one. VERDICT: INCORRECT", "VERDICT: CORRECT"],
    )
    shown = [text for _, text in seen(("alg", 4), ("alg", 5))]
    assert [(call.agent, call.user) for call in client.calls] == [
        ("alg", QUESTION),
        ("critic", prompts.critique(QUESTION, shown[0])),
        ("alg", prompts.refine(QUESTION, shown[0], "off by one. VERDICT: INCORRECT")),
        ("critic", prompts.critique(QUESTION, shown[1])),
    ]
    assert client.answers == [box(5)]


def test_pattern_self_consistency():
    script = paper(['EnsembleNode("sc", [alg, alg, alg])'], ["alg"])
    client = run(script, alg=lambda c: box({"0.0.0": 4, "0.0.1": 5, "0.0.2": 5}[c.path]))
    assert client.agents == ["alg"] * 3 and client.answers == [box(5)]


def test_pattern_ensemble_judge_verifier():
    node = 'EnsembleNode("panel", [alg, geo], strategy="consensus", consensus_agent=judge)'
    script = paper([node, "verifier"], ["alg", "geo", "judge", "verifier"])
    client = run(script, alg=box(4), geo=box(5), judge=box(5), verifier=box(5))
    assert client.agents == ["alg", "geo", "judge", "verifier"]
    assert client.calls[2].user == prompts.judge(QUESTION, seen(("alg", 4), ("geo", 5)))
    assert client.calls[3].user == prompts.follow_up(QUESTION, seen(("panel", 5)))


CODE_TOOL = """
import subprocess, sys, tempfile
def execute_code(code, stdin_input=""):
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(code)
        file.flush()
        done = subprocess.run([sys.executable, file.name], input=stdin_input, capture_output=True,
                              text=True, timeout=120)
    return done.stdout if done.returncode == 0 else "failed: " + done.stderr
tools = ToolRegistry()
tools.register(name="execute_code", func=execute_code, description="Runs Python code",
               parameters={"type": "object", "properties": {"code": {"type": "string"},
                           "stdin_input": {"type": "string"}}, "required": ["code"]})
tester = AgentNode("tester", "Write tests and run them.", tool_registry=tools, max_turns=5)
"""


def test_pattern_solver_and_unit_tests_with_a_code_tool():
    """The paper's code tool starts Python itself; here that becomes the `python` tool."""
    node = 'ReflectionNode("r", coder, critic_agent=tester, num_iterations=1)'
    script = paper([], ["coder"]).replace("workflow = ", CODE_TOOL + "workflow = ")
    script = script.replace("result =", f"workflow.add_node({node})\nresult =")
    first, second = "<solution>\nprint(4)\n</solution>", "<solution>\nprint(5)\n</solution>"
    ask = (
        '<tool_call>{"name": "execute_code", "arguments": '
        '{"code": "print(input())\nprint(4)", "stdin_input": "2 3"}}</tool_call>'
    )
    tester = [ask, "It prints 4. VERDICT: INCORRECT"]
    client = run(script, kind="code", coder=[first, second], tester=tester)
    assert client.agents == ["coder", "tester", "tester", "coder"]
    assert client.answers == [second]
    assert client.programs[0].endswith("print(input())\nprint(4)")
    assert "'2 3'" in client.programs[0]
    assert client.calls[1].user == prompts.critique(QUESTION, first)
    assert client.calls[2].user == "[execute_code] 12\n"
    assert client.calls[3].user == prompts.refine(QUESTION, first, tester[1])
    assert client.calls[0].system == prompts.agent_system("coder it", "code")


# containers


def test_later_nodes_see_what_all_earlier_ones_delivered():
    script = NODES + 'Workflow("w").add_nodes([a, b, Agent("c", "p")]).run(question)'
    client = run(script, a=box(1), b=box(2), c=box(3))
    assert client.calls[1].user == prompts.follow_up(QUESTION, seen(("a", 1)))
    assert client.calls[2].user == prompts.follow_up(QUESTION, seen(("a", 1), ("b", 2)))
    assert client.answers == [box(3)]


def test_the_first_error_ends_a_workflow_and_is_returned(capsys):
    script = NODES + (
        'r = Workflow("w").add_node(a).add_node(b).run(question)\n'
        "print(r.message_type is MessageType.ERROR, r)"
    )
    client = run(script, a=ValueError("cut"), b="never")
    assert client.agents == ["a"] and client.answers == []
    told = capsys.readouterr()
    assert told.out == "True ValueError: cut\n"
    assert told.err == "the workflow ended with an error: ValueError: cut\n"
    assert [node["error"] for node in client.nodes] == ["ValueError: cut"] * 2


def test_an_error_is_no_answer():
    script = NODES + 'answer(Workflow("w").add_node(a).run(question))'
    with pytest.raises(RuntimeError, match="cannot answer with an error: ValueError: cut"):
        run(script, a=ValueError("cut"))


def test_a_conditional_workflow_works_with_agents():
    """Fault: conditional, loop and graph containers failed with any agent inside."""
    script = NODES + (
        'w = ConditionalWorkflow("w").add_node(a)\n'
        'w.add_node(b, condition=lambda c: "unsure" in c.get_latest_message().content)\n'
        "w.run(question)"
    )
    unsure = run(script, a="unsure: 5", b="6")
    assert unsure.agents == ["a", "b"] and unsure.answers == ["6"]
    certain = run(script, a="5", b="6")
    assert certain.agents == ["a"] and certain.answers == ["5"]


@pytest.mark.parametrize(("condition", "rounds"), [("True", 4), ("c.state['iteration'] < 1", 2)])
def test_a_loop_runs_while_its_condition_holds(condition, rounds):
    script = NODES + (
        'w = LoopWorkflow("w", max_iterations=4).add_node(a).add_node(b)\n'
        f"w.set_loop_condition(lambda c: {condition}).run(question)"
    )
    client = run(script, a=box(1), b=box(2))
    assert client.agents == ["a", "b"] * rounds
    assert client.at("0.2").user == prompts.follow_up(QUESTION, seen(("a", 1), ("b", 2)))


@pytest.mark.parametrize(
    "built",
    ['Workflow("w", [a, b])', "Workflow('w', nodes=[a, b])", 'LoopWorkflow("w", [a, b], 1)'],
)
def test_a_workflow_takes_its_nodes_as_a_list_as_instruct_models_write_it(built):
    client = run(
        f"import mas\nfrom mas import Agent\n{NODES}answer({built}(question))", a="x", b="y"
    )
    assert client.agents == ["a", "b"] and client.answers == ["y"]


def test_a_number_after_the_name_of_a_loop_is_its_rounds():
    assert run(f'{NODES}LoopWorkflow("w", 3).add_node(a)(question)', a="x").agents == ["a"] * 3


def test_vote_is_an_ensemble():
    script = NODES + 'answer(Vote("v", [a, b, a])(question))'
    assert run(script, a=box(1), b=box(2)).answers == [box(1)]


def test_a_graph_follows_edges_conditions_and_choices():
    script = NODES + (
        'g = AgentGraph("g")\n'
        "g.add_node(a).add_node(b).add_node('end', Agent('last', 'p'))\n"
        "g.set_entry_point('a')\n"
        "g.add_edge('a', 'end', lambda c: 'done' in c.get_latest_message())\n"
        "g.add_edge('a', 'b')\n"
        "g.add_conditional_edges('b', lambda c: 'again' if len(c.messages) < 5 else 'stop',"
        " {'again': 'a', 'stop': 'end'})\n"
        "g.set_finish_point('end')\n"
        "answer(g.run(question))"
    )
    assert run(script, a="x", b="y", last="z").agents == ["a", "b", "a", "b", "last"]
    assert run(script, a="done", b="y", last="z").agents == ["a", "last"]
    assert run(script, a="done", b="y", last="z").answers == ["z"]


def test_a_graph_stops_after_max_steps_and_without_a_successor():
    around = NODES + 'g = AgentGraph("g", max_steps=3).add_node(a).add_edge("a", a)\ng(question)'
    assert len(run(around, a="x").calls) == 3
    alone = NODES + 'answer(AgentGraph("g").add_node(a).add_node(b)(question))'
    assert run(alone, a="x", b="y").answers == ["x"]


def test_a_graph_with_an_unknown_node_says_so():
    script = NODES + 'AgentGraph("g").add_node(a).add_edge("a", "nowhere")(question)'
    with pytest.raises(ValueError, match="graph g has no node nowhere"):
        run(script, a="x")


@pytest.mark.parametrize(
    "built",
    [
        "Workflow().add_node(a)",
        "ConditionalWorkflow().add_node(a)",
        "LoopWorkflow(max_iterations=1).add_node(a)",
        "AgentGraph().add_node(a)",
    ],
)
def test_containers_have_the_functional_use_and_nest(built):
    script = NODES + f"answer(Ensemble('e', [{built}, {built}])(question))\nr = {built}(question)"
    client = run(script, a=box(5))
    assert client.answers == [box(5)] and len(client.calls) == 3


def test_members_do_not_see_each_other_but_see_earlier_nodes():
    script = NODES + (
        'inner = Workflow("inner").add_node(a).add_node(b)\n'
        'Workflow("w").add_node(Agent("c", "p")).add_node(Ensemble("e", [inner, b])).run(question)'
    )
    client = run(script, a=box(1), b=box(2), c=box(3))
    assert client.at("0.1.0.1").user == prompts.follow_up(QUESTION, seen(("c", 3), ("a", 1)))
    assert client.at("0.1.1").user == prompts.follow_up(QUESTION, seen(("c", 3)))


def test_own_nodes_and_state_work_anywhere():
    """Fault: messages, contexts and nodes existed twice, as two copies of one module."""
    script = NODES + (
        "from workflow.core import Context, Message, MessageType, WorkflowNode\n"
        "import workflow, mas\n"
        "assert workflow.core.Context is mas.Context is Context\n"
        "class Count(WorkflowNode):\n"
        "    def process(self, context):\n"
        "        context.set_state('n', context.get_state('n', 0) + 1)\n"
        "        given = context.get_messages_by_type(MessageType.AGENT_RESPONSE)\n"
        "        kind = MessageType.INTERMEDIATE\n"
        "        return Message(content=f'{len(given)} replies', message_type=kind)\n"
        "class Pick(WorkflowNode):\n"
        "    def process(self, context):\n"
        "        return context.get_messages_by_type(MessageType.AGENT_RESPONSE)[0]\n"
        'w = Workflow("w").add_nodes([a, Count("count"), b, Pick("pick")])\n'
        "r = w.run(question, initial_state={'n': 4})\n"
        "assert r.content == 'first' and isinstance(r, Message)\n"
    )
    client = run(script, a="first", b="second")
    expected = prompts.follow_up(QUESTION, [("a", "first"), ("count", "1 replies")])
    assert client.calls[1].user == expected and client.answers == ["first"]
    assert [node["kind"] for node in client.nodes] == [
        "agent",
        "count",
        "agent",
        "pick",
        "workflow",
    ]


def test_an_own_node_may_call_agents_inside():
    script = NODES + (
        "class Twice(WorkflowNode):\n"
        "    def process(self, context):\n"
        "        a(context)\n"
        "        return b.process(context)\n"
        "Workflow().add_node(Twice('t')).run(question)\n"
    )
    client = run(script, a="first", b="second")
    assert [(call.agent, call.path) for call in client.calls] == [("a", "0.0.0"), ("b", "0.0.1")]
    assert client.answers == ["second"]


def test_run_with_context_adds_the_result_to_it():
    script = NODES + (
        "c = Context([Message('Other?', MessageType.USER_INPUT)])\n"
        "r = Workflow().add_node(a).run_with_context(c)\n"
        "assert c.get_latest_message() is r and len(c.messages) == 2"
    )
    assert run(script, a="x").calls[0].user == "Other?"


# scripts


@pytest.mark.parametrize(
    "imports",
    [
        "from workflow import Agent, Workflow",
        "from workflow.nodes import AgentNode as Agent",
        "from mas import *",
        "import workflow.nodes\nAgent = workflow.nodes.AgentNode",
        "import workflow.nodes as n\nAgent = n.AgentNode",
        "from workflow.workflow import Workflow\nfrom workflow.graph import AgentGraph",
        "from mas import Agent, question",
        "",
    ],
)
def test_imports_of_the_paper_and_the_short_ones_resolve(imports):
    assert run(f'{imports}\nanswer(Agent("a", "p")(question))', a="5").answers == ["5"]


@pytest.mark.parametrize(
    ("end", "answers"),
    [
        ("answer('1')\nanswer('2')", ["1"]),
        ("answer('1')\nWorkflow().add_node(a).run(question)", ["1"]),
        ("Workflow().add_node(b).run(question)\nWorkflow().add_node(a).run(question)", ["x"]),
        ("a(question)", []),
        ("print(a(question), '\\\\boxed{5}')", []),
        ("answer(None)", []),
        ("answer(7)", ["7"]),
        ("if __name__ == '__main__':\n    answer('main')", ["main"]),
    ],
)
def test_one_answer_is_sent_at_the_end(end, answers):
    """Fault: what a script printed was its answer, so it was paid without a model's call."""
    assert run(NODES + end, a="x", b="y").answers == answers


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("1 / 0", ZeroDivisionError),
        ("raise SystemExit(1)", SystemExit),
        ("raise SystemExit('no')", SystemExit),
    ],
)
def test_a_script_that_does_not_reach_its_end_has_no_answer(end, error):
    client = FakeClient({})
    with pytest.MonkeyPatch.context() as patch, pytest.raises(error):
        for name in ("__main__", *mas.MODULES):
            patch.setitem(mas.sys.modules, name, mas)
        mas.run_script(f"answer('5')\n{end}", QUESTION, "math", client, 0)
    assert client.answers == []


@pytest.mark.parametrize(
    "end",
    [
        "import sys\nsys.exit(0)",
        "raise SystemExit",
        "def main():\n    sys = 0\nraise SystemExit(main())",
        "import sys\ndef main():\n    sys.exit()\nmain()",
    ],
)
def test_a_clean_exit_keeps_the_answer(end):
    assert run(f"answer('5')\n{end}").answers == ["5"]
    assert run(NODES + f"Workflow().add_node(a).run(question)\n{end}", a="x").answers == ["x"]


RUNS = NODES + (
    "c = Agent('c', 'p')\n"
    "first, second, third = [Workflow('w').add_node(x).run(question) for x in (a, b, c)]\n"
)


@pytest.mark.parametrize(
    ("end", "agent"),
    [
        ("", "c"),
        ("print(first.content)", "a"),
        ("print('FINAL ANSWER:')\nprint(second)", "b"),
        ("print(second.content, 'wins')", "b"),
        (r"print('Majority: \\boxed{4.0}')", "b"),
        ("print('The answer:', 4)", "b"),
        ("print('**Answer:** 4')\nprint()", "b"),
        ("print('The answer is 4.')", "b"),
        ("print(first)\nprint(second)", "b"),
        ("print(first)\nprint('voted for', 17)", "a"),
        ("import sys\nprint(first, file=sys.stderr)", "c"),
        ("print(first)\nanswer(third)", "c"),
    ],
)
def test_of_several_runs_the_one_that_is_printed_last_answers(end, agent):
    """`answer` counts first; a printed value chooses between runs and is never the answer."""
    replies = {"a": box(3), "b": box(4), "c": box(5)}
    assert run(RUNS + end, **replies).answers == [replies[agent]]


def test_a_program_that_is_printed_chooses_its_run():
    end = "print('<solution>\\nx = 1  # best\\n</solution>')"
    programs = {name: f"<solution>\nx = {i}\n</solution>" for i, name in enumerate("abc")}
    assert run(RUNS + end, kind="code", **programs).answers == [programs["b"]]


def test_a_failed_run_is_not_chosen(capsys):
    script = RUNS + "print(third)"
    assert run(script, a=box(3), b=box(4), c=ValueError("cut")).answers == []
    assert run(RUNS + "print(first)", a=box(3), b=box(4), c=ValueError("cut")).answers == [box(3)]


def test_a_question_that_the_script_words_itself_is_asked_so():
    script = NODES + "Workflow().add_nodes([a, b]).run(question + ' Use algebra.')"
    client = run(script, a="x", b="y")
    assert client.calls[0].user == QUESTION + " Use algebra."
    assert client.calls[1].user == prompts.follow_up(QUESTION + " Use algebra.", [("a", "x")])


OWN = """
class Twice(WorkflowNode):
    def __init__(self, name, agent):
        super().__init__(name)
        self.agent = agent
    def process(self, context):
        return self.agent(f"{self.agent(context)} again")
helper = 3
"""


def test_own_node_classes_are_names_of_the_language():
    use = "answer(Twice('t', a)(question))"
    for imports in ("", "from mas import Twice\n", "import workflow.nodes as n\nTwice = n.Twice\n"):
        client = run(NODES + imports + use, nodes=OWN, a="x")
        assert client.agents == ["a", "a"] and client.answers == ["x"]
    assert mas.node_names(OWN) == {"Twice"}
    with pytest.raises(NameError):
        run("answer(helper)", nodes=OWN)


def test_a_condition_that_raises_does_not_hold(capsys):
    script = NODES + (
        "ConditionalWorkflow('w').add_node(a).add_node(b, lambda c: c.nothing).run(question)"
    )
    assert run(script, a="x", b="y").answers == ["x"]
    assert "has no attribute 'nothing'" in capsys.readouterr().err
    loop = NODES + "LoopWorkflow('w').add_node(a).set_loop_condition(lambda c: 1 / 0).run(question)"
    assert run(loop, a="x").agents == ["a"]
    graph = NODES + (
        "g = AgentGraph('g').add_node(a).add_node(b)\n"
        "g.add_conditional_edges('a', lambda c: 1 / 0).run(question)"
    )
    assert run(graph, a="x", b="y").agents == ["a"]
    edges = NODES + (
        "g = AgentGraph('g').add_node(a).add_node(b)\n"
        "g.add_edge('a', 'a', lambda c: 1 / 0).add_edge('a', 'b').run(question)"
    )
    assert run(edges, a="x", b="y").agents == ["a", "b"]


def test_a_simple_chain_runs_its_nodes_in_order():
    script = NODES + (
        "from workflow.graph import create_simple_chain\n"
        "create_simple_chain(('first', a), ('second', b), ('third', a)).run(question)"
    )
    assert run(script, a="x", b="y").agents == ["a", "b", "a"]


def test_nodes_have_a_logger_and_the_further_arguments_as_config():
    script = NODES + (
        "class Pick(WorkflowNode):\n"
        "    def __init__(self, name, **more):\n"
        "        super().__init__(name, **more)\n"
        "    def process(self, context):\n"
        "        self.logger.warning('picks %s', self.config['k'])\n"
        "        return Message(f\"{self.config.get('k', 1)}\")\n"
        "class Bare(WorkflowNode):\n"
        "    def __init__(self):\n"
        "        self.name = 'bare'\n"
        "    def process(self, context):\n"
        "        return Message(f'{self.config} {self.logger.name}')\n"
        "print(Bare()(question), Agent('a', 'p', mood='calm').config)\n"
        "answer(Pick('p', k=3)(question))"
    )
    assert run(script).answers == ["3"]


def test_nodes_have_the_attributes_that_the_papers_have():
    script = NODES + (
        "w = ConditionalWorkflow('w').add_node(a).add_node(b, lambda c: True)\n"
        "assert [node.name for node in w.nodes] == ['a', 'b']\n"
        "l = LoopWorkflow('l', 3).set_loop_condition(min)\n"
        "assert (l.max_iterations, l.loop_condition) == (3, min)\n"
        "g = AgentGraph('g').add_node('x', a).set_entry_point('x').set_finish_point('x')\n"
        "assert (g.entry_point, g.finish_points, [*g.nodes]) == ('x', {'x'}, ['x'])\n"
        "assert a.tool_registry.list_tools() == [] and Debate('d', [a, b]).judge is a\n"
        "assert Reflection('r', a).critic_agent is a and Ensemble('e', [a, b]).weights == [1, 1]\n"
        "class Bad(WorkflowNode):\n"
        "    def process(self, context):\n"
        "        raise ValueError('no')\n"
        "assert Bad('z').run(question).content == {'error': 'ValueError: no', 'node': 'z'}\n"
        "answer('held')"
    )
    assert run(script).answers == ["held"]


@pytest.mark.parametrize(
    ("system", "agents"),
    [
        ("Workflow([a, b])", "ab"),
        ("Workflow('w', a, b)", "ab"),
        ("Workflow('w', steps=[a, b])", "ab"),
        ("Workflow(name='w', nodes=[a, b])", "ab"),
        ("Vote([a, b])", "ab"),
        ("Vote('v', a, b)", "ab"),
        ("Ensemble(agents=[a, b], judge=c)", "abc"),
        ("Debate(agents=[a, b], rounds=1)", "aba"),
        ("Debate('d', a, b, num_rounds=1)", "aba"),
        ("Reflection(a, c, iterations=1)", "aca"),
        ("Reflection('r', a, critic=c, num_iterations=1)", "aca"),
        ("Router({'x': a}, lambda c: 'x')", "a"),
        ("Pipeline(a, 2)", "a"),
    ],
)
def test_nodes_are_made_as_instruct_models_guess(system, agents):
    nodes = NODES + "c = Agent(name='c', instructions='wrong')\n"
    client = run(f"{nodes}answer({system}(question=question))", a=box(1), b=box(2), c="wrong")
    assert client.agents == [*agents] and len(client.answers) == 1
    assert all(call.system.startswith("wrong") for call in client.calls if call.agent == "c")


def test_a_workflow_that_is_called_is_a_run_and_an_agent_is_none():
    assert run(NODES + "print(Workflow('w', [a, b])(question))", a="x", b="y").answers == ["y"]
    assert run(NODES + "print(Ensemble('v', [a, b])(question))", a="x", b="y").answers == []
