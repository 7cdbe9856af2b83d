"""A small run folder written by hand: two questions, no model. Shared by the tests of the pages."""

import json
import re
from contextlib import contextmanager
from random import Random
from threading import Thread

from mxa_lite.credit.advantage import GroupStats, assign
from mxa_lite.credit.schedule import learning_roles, stage
from mxa_lite.evidence.attempts import save_transcripts
from mxa_lite.evidence.metrics import step_line
from mxa_lite.learn.numbers import counted
from mxa_lite.recipe import file as recipe_file
from mxa_lite.runfolder import RunFolder
from mxa_lite.runs.serve import Server
from mxa_lite.tree import Call, Design, Execution, Outcome, Question, Tree

NASTY = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
)
SCRIPT = (
    'a = Agent("solver", "Work step by step.")\n'
    f"# {NASTY}\n"
    'answer(Ensemble("vote", [a] * 3)(question))\n'
)
QUESTIONS = ("q1", "q2")


def call(agent, path, reply):
    messages = [{"role": "system", "content": "Solve."}, {"role": "user", "content": "What?"}]
    ids = list(range(len(reply) // 4 + 1))
    return Call(agent, path, 0, messages, reply, [1, 2, 3], ids, [0.0] * len(ids))


def execution(correct, outcome=Outcome.OK):
    paths = [f"0.{i}" for i in range(3)]
    reply = f"<delivery>{NASTY}\\boxed{{{'4' if correct else '5'}}}</delivery>"
    vote = {"name": "vote", "kind": "ensemble", "path": "0", "parents": [], "output": reply}
    vote["error"] = None
    nodes = [vote | {"name": "solver", "kind": "agent", "path": p} for p in paths] + [vote]
    calls = [call("solver", p, reply) for p in paths]
    answer = ("4" if correct else "5") if outcome is Outcome.OK else None
    return Execution(outcome, answer, calls, nodes, correct=float(correct))


def trees(step, right):
    """Two questions, two designs each, two executions a design; the first `right` are correct."""
    made = []
    for number, name in enumerate(QUESTIONS):
        text = f"What is 2 + 2, question {number} {NASTY}?"
        question = Question(name, text, "arithmetic", gold="4")
        good = Design(call("designer", "", SCRIPT), SCRIPT, "vote")
        good.executions = [execution(i < right) for i in range(2)]
        bad = Design(call("designer", "", "def ("), "def (")
        bad.outcome, bad.error = Outcome.SYNTAX_ERROR, "line 1"
        made.append(Tree(question, [good, bad] if number else [good], step))
    return made


def held_out(table, patterns):
    """Each question with a design an attempt; table: which were correct."""
    made = trees(0, 2)
    for tree, row in zip(made, table, strict=True):
        tree.question.meta["kind"] = "sums" if tree.question.id == "q1" else "others"
        tree.designs = [
            Design(call("designer", "", SCRIPT), SCRIPT, name, executions=[execution(c)])
            for name, c in zip(patterns, row, strict=True)
        ]
    return made


def measured(right, attempts):
    accuracy = right / attempts
    return {
        **{"accuracy": accuracy, "low": accuracy / 2, "high": (accuracy + 1) / 2},
        **{"pass_at_k": accuracy, "k": 2, "calls": 4.0, "tokens": 90.0, "questions": 2},
    }


def run_folder(
    path, sets=(), steps=4, cold=((0, 0), (1, 0)), final=((1, 1), (1, 0)), pattern="vote"
):
    """A finished run. cold, final: for each question, which of its two attempts were correct."""
    recipe = recipe_file.load("arithmetic", ["schedule.period=2", f"train.steps={steps}", *sets])
    folder = RunFolder(path)
    folder.create(recipe_file.dump(recipe, {}))
    numbers = counted() | {"loss": 0.1, "grad_norm": 1.0, "lr": 1e-3}
    numbers |= {"trained_tokens": 90, "padded_tokens": 100}
    numbers |= {"logp_gap": {"executor": (0.1, 10)}, "entropy": {"executor": (5.0, 10)}}
    for step in range(1, steps + 1):
        made = trees(step, step % 3)
        groups = sum((assign(tree, recipe.credit) for tree in made), GroupStats())
        roles = learning_roles(recipe.schedule, step)
        line = step_line(step, roles, made, groups, 2, numbers)
        line |= {"stage": stage(recipe.schedule, step), "seconds": {"design": 1.0, "update": 2.0}}
        folder.write_trees(step, made)
        folder.add_metrics(line | {"memory": {"peak_mb": 100.0}})
    results = {}
    for when, table in (("cold", cold), ("final", final)):
        attempts = [(q, c) for q, row in zip(QUESTIONS, table, strict=True) for c in row]
        right = sum(c for _, c in attempts)
        results[when] = {
            "designed": measured(right, len(attempts)),
            "single": measured(1, len(attempts)),
        }
        rows = [
            {
                **{"question": q, "answer": "4", "correct": float(c), "calls": 4, "tokens": 90},
                **{"pattern": pattern if when == "final" else "single", "outcome": "ok"},
            }
            for q, c in attempts
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        folder.write(f"predictions/{when}/designed.jsonl", text)
        patterns = ("vote", "debate") if when == "cold" else ("vote", "vote")
        save_transcripts(held_out(table, patterns), path / "predictions" / when, "reply")
    cells = ("cold_cold", "trained_cold", "cold_trained", "trained_trained")
    results["swap"] = dict.fromkeys(cells, measured(1, 4))
    folder.write_json("eval.json", results)
    folder.write_json("summary.json", {"mode": "designed", "steps": steps})
    return path


def why_run(path):
    """Twelve steps, and predictions that say what the transcripts say."""
    run = run_folder(path, steps=12, cold=((0, 1), (0, 0)), final=((1, 1), (0, 1)))
    for when in ("cold", "final"):
        folder, rows = run / "predictions" / when, []
        for tree in map(json.loads, (folder / "transcripts.jsonl").open()):
            question = tree["question"]
            for design in tree["designs"]:
                row = {"question": question["id"], "kind": question["meta"]["kind"]}
                correct = design["executions"][0]["correct"]
                rows.append(row | {"pattern": design["pattern"], "correct": correct})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "designed.jsonl").write_text(text)
    return run


def long_run(path, steps=100):
    """Steps whose rollouts would take far more of the page than there is room for, 14 MB of a
    hundred."""
    run, source = run_folder(path, steps=steps), Random(0)
    for file in sorted((run / "rollouts").iterdir()):
        text = file.read_text()
        noisy = re.sub('"reply": "', lambda found: found[0] + source.randbytes(8000).hex(), text)
        file.write_text(noisy)
    return run


@contextmanager
def served(run, answerer):
    """A server of the run's pages, at work."""
    server = Server(run, answerer=answerer)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
