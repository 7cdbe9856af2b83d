"""Reading replies. "Fault" in a docstring is one of the paper's public code."""

import time

import pytest

from mxa_lite.texts.answers import (
    deliverable,
    delivery,
    extract,
    extract_script,
    fences,
    in_form,
    last_boxed,
    last_solution,
    program,
    same_value,
    shorten,
)


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (r"\boxed{5} then \boxed{7} then \boxed{5}", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{4} and cut \boxed{5", "4"),
        (r"\boxed {6}", "6"),
        ("no box } here {", None),
        (r"\boxed{}", ""),
    ],
)
def test_last_box_counts_braces(text, box):
    """Fault: scoring the last distinct box: 7 where the vote said 5 (5, 7, 5)."""
    assert last_boxed(text) == box


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1/2", "0.5"),
        ("0.5", r"\frac{1}{2}"),
        (r"\dfrac12", "1/2"),
        ("1,000", "1000"),
        ("1,234,567.5", "1234567.5"),
        ("$5$", "5.0"),
        ("-3", r"-\frac{6}{2}"),
        ("x = 5", "5"),
        ("+7", "7"),
        ("(1, 2)", "(1,2)"),
        (r"\left(1,2\right)", "(1,2)"),
        ("Yes", "yes"),
        (r"90^\circ", "90"),
    ],
)
def test_equal_answers_are_one_value(a, b):
    assert same_value(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("204", "205"),
        ("998", "1000"),
        ("5 minutes", "5 dollars"),
        ("A lot of things", "A"),
        ("e", "E = mc^2"),
        ("(a) 3", "(A) 7"),
        ("3 4", "34"),
        ("3 1/2", "31/2"),
        (r"3\frac{1}{2}", "31/2"),
        ("1,2", "12"),
        ("(1,234)", "1234"),
        ("1/0", "0"),
        ("10000000000000001", "10000000000000002"),
    ],
)
def test_different_answers_stay_different(a, b):
    """Fault: taking any number within 0.5 % for the truth, and letters for text."""
    assert not same_value(a, b)


def test_delivery_is_the_channel_and_carries_the_answer():
    """Fault: a delivery without the answer hid the answer from later nodes."""
    assert (
        deliverable(r"long work <delivery>add them</delivery> \boxed{5}") == r"add them \boxed{5}"
    )
    assert deliverable(r"<delivery>so \boxed{5}</delivery> \boxed{5}") == r"so \boxed{5}"
    assert deliverable("<think><delivery>no</delivery></think>plain words") == "plain words"
    assert deliverable("<delivery> </delivery>plain") == "<delivery> </delivery>plain"


def test_code_deliveries_carry_the_program():
    reply = "I add.\n<delivery>adds two</delivery><solution>```python\nprint(1)\n```</solution>"
    assert deliverable(reply, "code") == "adds two\n<solution>\nprint(1)\n</solution>"
    assert deliverable("<solution>print(1)</solution>", "code").count("print(1)") == 1
    assert deliverable("no block", "code") == "no block"


def test_longer_replies_never_become_shorter_than_short_ones():
    """Fault: 10 000 characters passed whole, 10 001 were cut to about 3 000."""
    lengths = [len(shorten("x" * n)) for n in range(900, 1200)]
    assert lengths == sorted(lengths)
    assert shorten("a" * 500 + "b" * 5000 + "c" * 800) == f"{'a' * 200}\n...\n{'c' * 800}"


def test_blocks():
    assert delivery("<delivery>a</delivery> <delivery> b </delivery>") == "b"
    assert delivery("<delivery>a") is None
    assert (
        delivery("Put it in <delivery>...</delivery> or <delivery>your answer</delivery>") is None
    )
    assert last_solution("<solution>\n```python\nx = 1\n```\n</solution>") == "x = 1"
    assert fences("```py\na\n```\ntext\n```\nb\n```") == [("py", "a"), ("", "b")]
    assert fences("```python\ncut") == [("python", "cut")]
    assert fences("so: ```python\nx\n``` and ```\ny```") == [("python", "x"), ("", "y")]
    assert fences("```python\ns = '```'\n```\ntext") == [("python", "s = '```'")]


def test_answers_and_their_form():
    assert extract(r"so \boxed{1/2}.") == "1/2"
    assert extract(" 42 ") == "42"
    assert extract("<solution>a</solution> <solution>b</solution>", "code") == "b"
    assert extract("```python\nb\n```", "code") == "b"
    assert in_form(r"\boxed{1}") and not in_form("1") and not in_form(r"\boxed{}")
    for quoted in ("answer", "your_answer", "final answer", "...", "<the result>", "?"):
        assert not in_form(f"The final answer in \\boxed{{{quoted}}}")
    assert all(in_form(f"\\boxed{{{value}}}") for value in ("x", "-", "yes", "the sum"))
    assert in_form("<solution>x</solution>", "code") and not in_form("```\nx\n```", "code")


def test_programs_are_compared_without_comments_and_layout():
    assert program("x = 1  # one\n\ny=2") == program("x=1\ny = 2\n")
    assert program("x = 'A'") != program("x = 'a'")
    assert program("not ( python") == "not ( python"


RAW = "import re\nfrom mas import *\n\na = Agent('a', 'p')\nWorkflow('w').add_node(a).run(question)"
THINKING = 'a = Agent("a", "First <think>plan</think>, then answer.")\nanswer(a(question))'
QUOTING = '''a = Agent("coder", """Write the program so:
```python
print(1)
```
or in <code></code> tags.""")
answer(a(question))'''

MUCH_QUOTING = "\n".join([QUOTING] * 6)


@pytest.mark.parametrize(
    ("reply", "script"),
    [
        ("plan <code>\n```python\nanswer(1)\n```\n</code> ```python\nother\n```", "answer(1)"),
        ("<code>answer(1)</code>", "answer(1)"),
        ("```python\nfrom mas import Agent\nanswer(1)\n```\nrun:\n```bash\nls\n```", None),
        ("```\nanswer(1)\n```", "answer(1)"),
        ("```python\nanswer(1)", "answer(1)"),
        ("from workflow import Workflow\nx = 1", "from workflow import Workflow\nx = 1"),
        ('a = Agent("s", "p")\nanswer(a(question))', 'a = Agent("s", "p")\nanswer(a(question))'),
        (f"```python\n{QUOTING}\n```", QUOTING),
        (f"Here:\n```python\n{QUOTING}\n```\nRun it:\n```bash\nls\n```", QUOTING),
        (f"<code>\n```python\n{QUOTING}\n```\n</code>", QUOTING),
        (f"<code>\n{QUOTING}\n</code>\nIt uses </code> no more", QUOTING),
        (f"Scripts go into <code>. <code>\n{QUOTING}\n</code>", QUOTING),
        (f"```python\n{QUOTING}", QUOTING),
        ("```python\nanswer(1)\n```\nor\n```python\nanswer(2)\n```", "answer(2)"),
        ("```python\nanswer(1)\n```\nor\n```python\nanswer(2\n```", "answer(1)"),
        ("```python\nanswer(1\n```", "answer(1"),
        ("```python\nanswer(1)```", "answer(1)"),
        ("<think>```python\nanswer(0)\n```</think>```python\nanswer(1)\n```", "answer(1)"),
        (f"<think>so</think>\n```python\n{THINKING}\n```", THINKING),
        (f"````python\n{QUOTING}\n````", QUOTING),
        (f"~~~python\n{QUOTING}\n~~~", QUOTING),
        (f"Plan.\n```python\n{MUCH_QUOTING}\n```\nDone.", MUCH_QUOTING),
        (f"<code>\n```python\n{MUCH_QUOTING}\n```\n</code>", MUCH_QUOTING),
        ('```python title="a.py"\nanswer(1)\n``` This works.', "answer(1)"),
        ("```{python}\nanswer(1)\n```", "answer(1)"),
        ('<CODE lang="python">\nanswer(1)\n</CODE>', "answer(1)"),
        ("1. Run:\n   ```python\n   x = 1\n   answer(x)\n   ```", "x = 1\nanswer(x)"),
        (f"Here is the script:\n\n{RAW}\n\nIt asks one agent.", RAW),
        (f"Sure!\n{RAW}", RAW),
    ],
)
def test_scripts_are_found(reply, script):
    assert extract_script(reply) == (script or "from mas import Agent\nanswer(1)")


def test_no_script():
    assert extract_script("The answer is 5.") is None
    assert extract_script("") is None
    assert extract_script("``````") is None


@pytest.mark.parametrize(
    "piece", [r"\boxed{", "{", "<solution>", "```", "\\frac{", " ", "(1,", "<"]
)
def test_reading_is_linear_in_hostile_text(piece):
    text = piece * (400_000 // len(piece))
    start = time.process_time()
    for kind in ("math", "code"):
        extract(text, kind)
        deliverable(text, kind)
        in_form(text, kind)
    same_value(text, text[:-1])
    extract_script(text)
    assert time.process_time() - start < 3
