"""Agents with tools against canned replies.

"Fault" in a docstring is one of the paper's public code that must not come back.
"""

import pytest
from fake_client import run

from mxa_lite.texts import prompts

AGENT = 'a = Agent("solver", "Work step by step.")\n'


def box(value):
    return f"<delivery>it is {value}</delivery> \\boxed{{{value}}}"


TOOL = 'tools = ToolRegistry().register("python")\na = Agent("solver", "p", tools, max_turns={})\n'
ASK = '<tool_call>{"name": "python", "arguments": {"code": "print(12)"}}</tool_call>'


def test_the_python_tool_runs_in_the_parent_and_its_result_is_a_user_message():
    """Fault: in training the tools were never shown to the agent."""
    client = run(TOOL.format(10) + "answer(a(question))", solver=[ASK, box(12)])
    assert client.programs == ["print(12)"] and client.answers == [box(12)]
    assert client.calls[0].system.endswith(
        prompts.tools([("python(code)", "runs a Python program, shows what it prints")])
    )
    assert client.calls[1].messages[2:] == [
        {"role": "assistant", "content": ASK},
        {"role": "user", "content": "[python] 12\n"},
    ]
    assert [(call.path, call.number) for call in client.calls] == [("0", 0), ("0", 1)]


@pytest.mark.parametrize("turns", [1, 3])
def test_turns_run_out_in_one_forced_answer(turns):
    """Fault: max_turns=1 made three calls; here max_turns + 1 is the most."""
    client = run(TOOL.format(turns) + "answer(a(question))", solver=ASK)
    assert len(client.calls) == turns + 1
    assert client.calls[-1].user == f"[python] 12\n\n{prompts.FINAL_TURN}"
    assert prompts.FINAL_TURN not in client.calls[-2].user


def test_a_fence_is_code_to_run_only_with_a_python_tool_and_outside_the_solution():
    """Fault: the first fence ran even without a tool, also inside the answer."""
    fence = "look\n```python\nprint(1)\n```\n"
    plain = run(AGENT + "answer(a(question))", solver=fence)
    assert plain.programs == [] and plain.answers == [fence]
    solved = f"<solution>\n{fence}</solution>"
    answered = run(TOOL.format(2) + "answer(a(question))", kind="code", solver=solved)
    assert answered.programs == [] and len(answered.calls) == 1
    ran = run(TOOL.format(2) + "answer(a(question))", solver=[fence, box(1)])
    assert ran.programs == ["print(1)"]
    other = 'tools = ToolRegistry().register("add", lambda x: x, "adds", {})\n'
    own = run(other + 'answer(Agent("solver", "p", tools)(question))', solver=fence)
    assert own.programs == [] and len(own.calls) == 1


@pytest.mark.parametrize(
    "register",
    [
        '"python_execute", lambda code: m.execute(code), "d", {"properties": {"code": {}}}',
        '"run_python", m.execute, "d", {}',
        '"tool", lambda source_code: m.execute(source_code), "d"',
        '"interpreter", lambda text: m.execute(text), "d", {"properties": {"text": {}}}',
        '"compute", lambda text: m.execute(text), "Runs Python"',
        '"run_it", own, "d", {"properties": {"code": {}}}',
        '"run_it", caught, "d", {"properties": {"code": {}}}',
    ],
)
def test_a_fence_runs_in_any_tool_that_takes_a_program(register):
    """Also in one that would start a process itself, which no script may."""
    script = (
        "import subprocess, sys\n"
        "from utils.environments.math_env import get_math_environment\n"
        "m = get_math_environment(timeout=5)\n"
        "def own(code):\n"
        "    return subprocess.run([sys.executable, '-c', code], capture_output=True).stdout\n"
        "def caught(code):\n"
        "    try:\n        return own(code)\n"
        "    except Exception as error:\n        return f'Error: {error}'\n"
        f"tools = ToolRegistry().register({register})\n"
        'answer(Agent("solver", "p", tools)(question))'
    )
    client = run(script, solver=["look\n```python\nprint(1)\n```", "done"])
    assert client.programs == ["print(1)"] and client.answers == ["done"]
    assert client.calls[1].user.endswith("] 12\n")


def test_a_tool_can_be_looked_up_with_its_function():
    script = (
        "t = ToolRegistry()\n"
        't.register(name="f", func=lambda x: x * 7, description="d", parameters={"type": "x"})\n'
        't.register("g", print, "prints")\n'
        'tool = t.get_tool("f")\n'
        'assert t.get_tool_schemas()[0]["function"]["name"] == "f" and t.get_tool("h") is None\n'
        'answer([tool["function"](6), tool["description"], tool["parameters"], t.list_tools()])'
    )
    assert run(script).answers == [str([42, "d", {"type": "x"}, ["f", "g"]])]


def test_an_own_function_is_a_tool_and_its_errors_are_told_to_the_agent():
    script = (
        "def add(x, y):\n    return x + y if x else exit(y)\n"
        "tools = ToolRegistry()\n"
        'tools.register("add", add, "adds", {"type": "object", "properties": {"x": {}, "y": {}}})\n'
        'answer(Agent("solver", "p", tool_registry=tools)(question))'
    )
    asks = [
        '<tool_call>{"name": "add", "parameters": {"x": 2, "y": 3}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": {"x": 2}}</tool_call>',
        '<tool_call>{"name": "sub"}</tool_call>',
        '<tool_call>{"name": "add", "arguments": {"x": 0, "y": 1}}</tool_call>',
        "<tool_call>{oops</tool_call>",
        box(5),
    ]
    client = run(script, solver=asks)
    told = [call.user for call in client.calls[1:]]
    assert told[0] == "[add] 5"
    assert told[1].startswith("[add] error: TypeError")
    assert told[2] == "[sub] error: ValueError: unknown tool sub, there is add"
    assert told[3] == "[add] error: SystemExit: 1"
    assert told[4].startswith("[tool] error: JSONDecodeError")
    assert "- add(x, y): adds" in client.calls[0].system


def test_an_agent_without_tools_makes_one_call_whatever_it_writes():
    client = run(AGENT + "answer(a(question))", solver=ASK)
    assert len(client.calls) == 1 and client.answers == [ASK]


def test_math_environment_is_the_python_tool():
    script = (
        "from utils.environments import MathEnvironment\n"
        'tools = ToolRegistry().register("run", MathEnvironment(timeout=5).execute, "d", {})\n'
        'answer(Agent("solver", "p", tools)(question))'
    )
    ask = '<tool_call>{"name": "run", "arguments": {"code": "print(3)"}}</tool_call>'
    client = run(script, solver=[ask, "done"])
    assert client.programs == ["print(3)"] and client.calls[1].user == "[run] 12\n"


def test_the_search_environment_does_not_exist():
    with pytest.raises(ImportError):
        run("from utils.environments import SearchEnvironment")
