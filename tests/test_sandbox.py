"""The sandbox's seam: rounds, clocks, outcomes, limits, levels, and that nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_world import alive, children

from mxa_lite.machine.doctor import COVERS
from mxa_lite.sandbox.box import CallRequest, Ended, Job, Limits, Sandbox, SandboxError
from mxa_lite.sandbox.confine import LEVELS
from mxa_lite.tree import Outcome, path_key
from mxa_lite.wire import Kill

ASK = 'answer(Agent("solver")(question))'
Reply = Callable[[CallRequest], str]


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(Limits(seconds=5, max_calls=8)) as sandbox:
        yield sandbox


def boxed(call: CallRequest) -> str:
    return "\\boxed{4}"


def rounds(
    box: Sandbox, *sources: str, reply: Reply = boxed, kind: str = "math"
) -> tuple[list[list[CallRequest]], list[Ended]]:
    """Runs scripts together: every round of calls there was, and their ends by job."""
    for source in sources:
        box.start(Job(source, "2+2?", kind))
    made: list[list[CallRequest]] = []
    ended: list[Ended] = []
    while len(ended) < len(sources):
        waiting: list[CallRequest] = []
        while not box.idle() or not waiting:
            events = box.poll(None)
            ended += [event for event in events if isinstance(event, Ended)]
            waiting += [event for event in events if isinstance(event, CallRequest)]
            if len(ended) == len(sources):
                break
        if waiting:
            made.append(waiting)
        for call in waiting:
            box.reply(call.job, call.id, reply(call))
    return made, sorted(ended, key=lambda end: end.job)


def gone(pid: int | str) -> bool:
    """Whether a process ends within 10 seconds."""
    deadline = time.monotonic() + 60
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def run(box: Sandbox, source: str, **kwargs: Any) -> Ended:
    return rounds(box, source, **kwargs)[1][0]


def test_an_honest_script_is_ok(box: Sandbox) -> None:
    made, (ended,) = rounds(box, ASK)
    assert (ended.outcome, ended.message) == (Outcome.OK, "\\boxed{4}")
    assert [call.agent for call in made[0]] == ["solver"]
    assert made[0][0].messages[-1] == {"role": "user", "content": "2+2?"}


@pytest.mark.parametrize(
    ("source", "outcome", "error"),
    [
        (ASK, "ok", None),
        (ASK + "\n1 / 0", "crashed", "ZeroDivisionError: division by zero"),
        ("import os; os.abort()", "crashed", "the process ended with status -6"),
        ("raise SystemExit(3)", "crashed", "SystemExit: 3"),
        ("raise MemoryError", "memory", "MemoryError"),
        ('a = Agent("a")\nfor _ in range(9): a(question)', "call_budget", None),
        ('Agent("a")(question)', "no_answer", None),
        ("exit()", "no_answer", None),
        ("answer(4)", "no_calls", None),
    ],
)
def test_outcomes(box: Sandbox, source: str, outcome: str, error: str | None) -> None:
    ended = run(box, source)
    assert ended.outcome == outcome
    assert error is None or ended.error == error
    assert (ended.message is None) == (outcome not in ("ok", "no_calls"))


def test_own_time_runs_out_and_waiting_for_the_model_is_not_charged() -> None:
    slow = "import time\ntime.sleep(60)"
    with Sandbox(Limits(seconds=0.5)) as box:
        box.start(Job(ASK, "q"))
        (call,) = box.poll(10)
        assert isinstance(call, CallRequest)
        assert box.poll(0.8) == []
        time.sleep(0.8)
        box.reply(call.job, call.id, "x")
        (ended,) = box.poll(10)
        assert isinstance(ended, Ended)
        assert ended.outcome is Outcome.OK and ended.seconds < 0.5
        assert run(box, slow).outcome is Outcome.TIMEOUT


def test_a_round_comes_whole_and_in_the_order_of_the_script(box: Sandbox) -> None:
    source = (
        "members = [Agent(f'm{i}') for i in range(8)]\n"
        "answer(Ensemble('vote', members).run(question))"
    )
    made, (ended,) = rounds(box, source)
    assert [[call.agent for call in wave] for wave in made] == [[f"m{i}" for i in range(8)]]
    assert ended.outcome is Outcome.OK


def test_a_round_with_one_call_too_many_is_refused_as_a_whole(box: Sandbox) -> None:
    source = "Ensemble('vote', [Agent(f'm{i}') for i in range(9)]).run(question)"
    made, (ended,) = rounds(box, source)
    assert made == []
    assert (ended.outcome, ended.error) == (Outcome.CALL_BUDGET, "call budget: more than 8 calls")


def test_a_script_whose_round_is_partly_answered_waits_again(box: Sandbox) -> None:
    job = box.start(Job("Ensemble('v', [Agent('a'), Agent('b')]).run(question)", "q"))
    first, second = box.poll(10)
    assert isinstance(first, CallRequest) and isinstance(second, CallRequest)
    box.reply(job, first.id, "x")
    assert not box.idle()
    assert box.poll(10) == [] and box.idle()
    box.reply(job, second.id, "x")
    assert isinstance(box.poll(10)[0], Ended)


@pytest.mark.parametrize(
    "own",
    [
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(3) as pool: replies = list(pool.map(ask, names))",
        "import threading\nthreads = [threading.Thread(target=ask, args=n) for n in names]\n"
        "for t in threads: t.start()\nfor t in threads: t.join()",
        "import asyncio\nasync def main():\n"
        "    return await asyncio.gather(*[asyncio.to_thread(ask, n) for n in names])\n"
        "replies = asyncio.run(main())",
    ],
    ids=["pool", "threads", "asyncio"],
)
def test_threads_a_script_makes_itself_ask_side_by_side(box: Sandbox, own: str) -> None:
    source = f"names = 'abc'\ndef ask(name): return Agent(name)(question)\n{own}\nanswer(1)"
    made, (ended,) = rounds(box, source)
    assert ended.outcome is Outcome.OK, ended
    assert [sorted(call.agent for call in wave) for wave in made] == [["a", "b", "c"]]


def test_calls_are_numbered_by_the_parent(box: Sandbox) -> None:
    made, _ = rounds(box, "a = Agent('a')\nfor _ in range(3): a(question)")
    assert [(call.path, call.number) for wave in made for call in wave] == [
        ("0", 0),
        ("1", 0),
        ("2", 0),
    ]


def test_events_are_sorted_by_job_then_path() -> None:
    assert sorted(["0.10", "0.2", "1", "0.x"], key=path_key) == ["0.2", "0.10", "0.x", "1"]


def test_random_and_hashes_depend_on_the_seed_alone(box: Sandbox) -> None:
    source = "import random\nprint(random.random(), hash('a'), list({'x', 'y', 'z'}))"
    shown = []
    for seed in (1, 1, 2):
        box.start(Job(source, "q", seed=seed))
        (ended,) = box.poll(None)
        assert isinstance(ended, Ended)
        shown.append(ended.stdout.split())
    assert shown[0] == shown[1] and shown[0][0] != shown[2][0] and shown[0][1:] == shown[2][1:]


def test_the_parent_may_end_a_script(box: Sandbox) -> None:
    job = box.start(Job(ASK, "q"))
    box.poll(10)
    box.stop(job, Outcome.TOKEN_BUDGET)
    assert not box.idle()
    (ended,) = box.poll(10)
    assert isinstance(ended, Ended) and ended.outcome is Outcome.TOKEN_BUDGET


def test_a_reply_nobody_waits_for_is_an_error_and_a_late_one_is_not(box: Sandbox) -> None:
    job = box.start(Job(ASK, "q"))
    (call,) = box.poll(10)
    assert isinstance(call, CallRequest)
    with pytest.raises(ValueError, match="does not wait"):
        box.reply(job, call.id + 1, "x")
    box.reply(job, call.id, "x")
    box.poll(10)
    box.reply(job, call.id, "x")


def test_replies_of_any_text_and_length_arrive(box: Sandbox) -> None:
    for text in ("\udc80 \x00 \u2028 \n", "x" * 500_000):
        ended = run(box, ASK, reply=lambda call, text=text: text)
        assert ended.message == text.replace("\udc80", "?")


def test_output_is_kept_up_to_64_kb(box: Sandbox) -> None:
    ended = run(box, "import sys\nprint('x' * 10**6)\nprint('y' * 10**6, file=sys.stderr)")
    assert (ended.stdout, ended.stderr) == ("x" * 65536, "y" * 65536)


def test_a_tool_runs_elsewhere_on_the_time_of_its_script(box: Sandbox) -> None:
    source = (
        "run = MathEnvironment().execute\nopen('f', 'w')\n"
        "print(run('import os; print(6 * 7, os.listdir())'), run('1 / 0'))"
    )
    shown = run(box, source).stdout
    assert "42 []" in shown and "ZeroDivisionError" in shown


def test_programs_side_by_side(box: Sandbox) -> None:
    programs = [(f"print(int(input()) * {n})", "7\n") for n in range(20)]
    assert [r.stdout for r in box.run_codes(programs)] == [f"{7 * n}\n" for n in range(20)]
    crashed, left, slow = box.run_codes(
        [("1 / 0", ""), ("import sys\nsys.exit(3)", ""), ("while True: pass", "")]
    )
    assert (crashed.outcome, crashed.exit_code) == (Outcome.CRASHED, 1)
    assert (left.outcome, left.exit_code) == (Outcome.CRASHED, 3)
    assert slow.outcome is Outcome.TIMEOUT


def test_a_program_ends_as_an_interpreter_does_and_sees_its_own_name(box: Sandbox) -> None:
    source = (
        "import atexit, sys, threading, time\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "atexit.register(print, 'last')\n"
        "def late():\n    said.wait()\n    time.sleep(0.1)\n    print('late')\n"
        "said = threading.Event()\n"
        "threading.Thread(target=late).start()\n"
        "print(sys.argv, *ThreadPoolExecutor(2).map(str, [1, 2]))\n"
        "said.set()\n"
    )
    whole, left = box.run_codes([(source, ""), (source + "sys.exit(3)", "")])
    assert whole.stdout == left.stdout == "['program.py'] 1 2\nlate\nlast\n"
    assert (whole.outcome, whole.exit_code, left.exit_code) == (Outcome.OK, 0, 3)
    assert run(box, "import sys\nprint(sys.argv)").stdout == "['script.py']\n"


def test_programs_and_tools_have_numpy_and_sympy_and_scripts_do_not(box: Sandbox) -> None:
    source = (
        "import numpy, sympy, os\n"
        "print(numpy.linalg.solve(2 * numpy.eye(2), numpy.ones(2)), sympy.sqrt(8))\n"
        "try: os.listdir(os.path.dirname(os.path.realpath(numpy.__file__)) + '/..')\n"
        "except PermissionError: print('alone')\n"
    )
    (result,) = box.run_codes([(source, "")])
    assert result.stdout == "[0.5 0.5] 2*sqrt(2)\nalone\n", result
    tool = run(box, "print(MathEnvironment().execute('import numpy\\nprint(numpy.arange(3))'))")
    assert tool.stdout == "[0 1 2]\n\n"
    assert "No module named 'numpy'" in (run(box, "import numpy").error or "")


def test_time_that_a_program_waits_for_a_core_is_not_its_own() -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint('done')"
    count = 8 * len(os.sched_getaffinity(0))  # alone on the machine they take 2.4 s
    with Sandbox(Limits(seconds=1)) as box:
        assert {r.stdout for r in box.run_codes([(busy, "")] * count)} == {"done\n"}


def test_scripts_beyond_the_limit_of_open_files_wait_in_the_queue() -> None:
    source = (
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "from mxa_lite.sandbox.box import *\n"
        "script = 'answer(Agent(MathEnvironment().execute(\"print(6 * 7)\").strip())(question))'\n"
        "ended = []\n"
        "with Sandbox(Limits(seconds=120)) as box:\n"
        "    box.prepare(256)\n"
        "    for _ in range(256): box.start(Job(script, 'q'))\n"
        "    while len(ended) < 256:\n"
        "        for event in box.poll(None):\n"
        "            if isinstance(event, Ended): ended.append(event.outcome)\n"
        "            else: box.reply(event.job, event.id, event.agent)\n"
        "print(*set(ended))"
    )
    done = subprocess.run([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    assert done.stdout == "ok\n"


def test_many_scripts_at_once_wait_together() -> None:
    with Sandbox(Limits(), alive=32) as box:
        made, ended = rounds(box, *[ASK] * 64)
        assert [end.outcome for end in ended] == [Outcome.OK] * 64
        assert [len(wave) for wave in made] == [32, 32]
        assert sorted(call.job for call in made[0]) == list(range(32))


def test_an_unreachable_level_is_refused_with_one_sentence() -> None:
    with pytest.raises(SandboxError, match=r"^this machine's sandbox level is rlimits, not lan"):
        Sandbox(Limits(), "landlock", at_most="rlimits")


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_runs_honest_scripts(level: str) -> None:
    with Sandbox(Limits(), at_most=level) as box:
        assert LEVELS.index(box.level) <= LEVELS.index(level)
        assert run(box, ASK).outcome is Outcome.OK
        assert run(box, "import os\nprint(len(os.environ))").stdout == "4\n"
        assert run(box, "x = bytearray(1 << 30)").outcome is Outcome.MEMORY


def test_every_promise_names_a_level() -> None:
    assert {level for _, level in COVERS} == set(LEVELS)


def test_no_daemon_stays_even_where_processes_are_allowed(tmp_path: Path) -> None:
    daemon = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        f"        open('{tmp_path}/pid', 'w').write(str(os.getpid()))\n        time.sleep(60)\n"
        f"    os._exit(0)\nwhile not os.path.exists('{tmp_path}/pid'): time.sleep(0.01)"
    )
    with Sandbox(Limits(), at_most="rlimits") as box:
        assert run(box, daemon).outcome is Outcome.NO_ANSWER
        assert children(box.server.process.pid) == set()


def test_a_dead_server_ends_its_scripts_and_is_replaced() -> None:
    with Sandbox(Limits()) as box:
        box.start(Job(ASK, "q"))
        box.poll(10)
        (script,) = children(box.server.process.pid)
        os.kill(box.server.process.pid, signal.SIGKILL)
        box.server.process.wait()
        (ended,) = box.poll(10)
        assert isinstance(ended, Ended)
        assert (ended.outcome, ended.error) == (Outcome.CRASHED, "the sandbox server died")
        assert gone(script)
        assert run(box, ASK).outcome is Outcome.OK


def test_nothing_outlives_a_kill_of_the_trainer() -> None:
    source = (
        "import os, signal\nfrom mxa_lite.sandbox.box import *\nbox = Sandbox(Limits())\n"
        "for _ in range(3): box.start(Job('while True: pass', 'q'))\n"
        "box.poll(0.3)\nprint(box.server.process.pid, box.server.folder, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    server, folder = done.stdout.split()
    assert done.returncode == -signal.SIGKILL
    assert gone(server) and not os.path.exists(folder)


def test_closing_leaves_no_process_and_no_folder() -> None:
    box = Sandbox(Limits())
    box.start(Job("open('f', 'w').write('x')\nwhile True: pass", "q"))
    box.poll(0.3)
    box.close()
    box.close()
    assert box.server.process.poll() is not None and not os.path.exists(box.server.folder)


def test_a_folder_that_takes_long_to_remove_holds_up_its_own_report_only(tmp_path: Path) -> None:
    source = """
import os, sys
from types import SimpleNamespace
from mxa_lite.sandbox import server as sandbox_server
os.chdir(sys.argv[1])
sandbox_server._REMOVE = "sleep 1; " + sandbox_server._REMOVE
server = sandbox_server.Server.__new__(sandbox_server.Server)
server._confiner = SimpleNamespace(seccomp=True, belong_to=lambda pid: None)
server._send = lambda report: print(*report, os.listdir())
server._children, server._removers = {}, {}
for job in ("full", "empty"):
    os.makedirs("full/file" if job == "full" else job)
    server._children[job] = sandbox_server._Child(job, job, 1, None)
    server._bury(job, 0)
server._reap(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", source, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    told = ["full ['full']", "empty 0 None ['full']", "full 0 None []"]
    assert done.stdout.splitlines() == told


def test_a_script_imports_what_honest_scripts_need(box: Sandbox) -> None:
    modules = "json re math random sqlite3 ssl zoneinfo multiprocessing tempfile shutil"
    lines = [f"import {name}" for name in modules.split()]
    lines += ["with tempfile.TemporaryDirectory() as d: shutil.copyfile(__import__('os').__file__,"]
    source = "\n".join(lines) + " d + '/x')\nprint(zoneinfo.ZoneInfo('UTC'))"
    assert run(box, source).stdout == "UTC\n"


def test_scripts_that_wait_for_tools_do_not_hold_up_the_tools() -> None:
    source = "print(MathEnvironment().execute('print(6 * 7)'))"
    with Sandbox(Limits(), alive=40) as box:
        _, ended = rounds(box, *[source] * 40)
    assert {end.stdout for end in ended} == {"42\n\n"}


def test_scripts_run_in_processes_prepared_for_them_as_in_others(box: Sandbox) -> None:
    box.prepare(2)
    found = [run(box, "print(1 + 1)\nanswer(Agent('a', 'b')(question))") for _ in range(3)]
    assert [(ended.outcome, ended.stdout) for ended in found] == [(Outcome.OK, "2\n")] * 3
    assert [ended.job for ended in found] == sorted(ended.job for ended in found)


def test_a_prepared_process_that_dies_is_no_script_s_end(box: Sandbox) -> None:
    box.prepare(1)
    (waiting,) = box._ready
    box.server.tell(Kill(waiting.number))  # the server kills it
    while box._ready:
        assert box.poll(0.05) == []
    assert run(box, "answer(Agent('a', 'b')(question))").outcome is Outcome.OK
