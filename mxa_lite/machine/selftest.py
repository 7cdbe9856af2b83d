"""`mxa-lite selftest`: what only a machine's own run can prove, each check with its criterion.

The checks (`proofs.py`) run in a process of their own; one that ends it, as a fault of a GPU does,
has failed, and another process goes on with the next. Without torch here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mxa_lite.policy import choose_loader, unsloth_first
from mxa_lite.recipe import file as recipe_file
from mxa_lite.recipe.versions import machine, versions

SETS = (  # the embedded model in a small shape
    "rollout.max_completion_tokens={designer: 64, executor: 32}",
    *("rollout.designs=4", "rollout.executions=1", "train.questions=2"),
    *("train.learning_rate=1e-3", "train.warmup_steps=0", "cold_start={method: none}"),
)
CRITERIA = {  # check -> what it wants, in the order in which they run
    "device": "a matrix product on the card within 1 % of the CPU's",
    "sandbox": "scripts of the model are confined by landlock or more",
    "adapters": "two float32 adapters over 4-bit layers, all on one device; under Unsloth on a GPU"
    " its kernels in every layer",
    "log-probs": "as sampled, and computed again by plain PEFT: mean gap below 0.02, at most 0.3,"
    " and the other role's 10 times as far",
    "greedy": "plain PEFT says the same tokens, or has them within 0.1 of its best",
    "gradients": "of a training step: within 6 % of plain PEFT's for each matrix",
    "repeats": "the same batch twice: the same tokens",
    "steps": "two of both roles, two of the executor: finite norms, the frozen role bit for bit",
    "resume": "2 steps and 2 more end where 4 do: bit for bit on a CPU, within 1 % on a GPU, there"
    " with paged AdamW too",
    "cold start": "ten steps lower the loss, to within 2 % of plain PEFT's",
    "float16": "of 8 steps the gradients' scaler skips at most 3",
    "export": "merged, it says what the adapters say over the 16-bit base, or has it within 0.1 of"
    " its best",
    "vllm": "log-probs as vLLM samples, and computed again by plain PEFT: mean gap below 0.05",
    "memory": "a batch and an update take 0.5 to 1.1 times what `plan` says, and go on with half",
    "speed": "more than no token a second; it is there to be reported",
}
Say = Callable[[str], None]


def selftest(sets: tuple[str, ...], say: Say = lambda text: None) -> dict[str, Any]:
    """All checks: {"passed", "machine", "versions", "loader", "checks": name -> {"result", "text",
    "seconds", "wanted"}}; `say` is told each as a line.

    result: passed, failed or skipped. `sets` change the recipe, a loader or a dtype.
    """
    loader = ": ".join(choose_loader(recipe_file.load("arithmetic", (*SETS, *sets)).model))
    checks: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="mxa-selftest-") as folder:
        while pending := [name for name in CRITERIA if name not in checks]:
            for name, result in _process(Path(folder), sets, pending):
                checks[name] = result | {"wanted": CRITERIA[name]}
                say(described(name, checks[name]))
    return {
        "passed": all(check["result"] != "failed" for check in checks.values()),
        "machine": machine(checks["device"]["text"]),
        "versions": versions(),
        "loader": loader,
        "checks": checks,
    }


def described(name: str, result: dict[str, Any]) -> str:
    """A check as a line for a person."""
    criterion = f" (wanted: {result['wanted']})" if result["result"] == "failed" else ""
    return f"{result['result']:<8} {name:<10} {result['text']}{criterion}"


def _process(
    folder: Path, sets: tuple[str, ...], names: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Results of these checks, until the process that runs them ends; the one that it was at has
    failed then."""
    errors = folder / "stderr"
    with errors.open("w", encoding="utf-8") as stderr, started(folder, sets, names, stderr) as run:
        assert run.stdout is not None
        for name, line in zip(names, run.stdout, strict=False):
            names = names[1:]
            yield name, json.loads(line)
    if names:
        last = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        text = " ".join([f"ended with exit code {run.returncode}:", *last])[:300]
        yield names[0], {"result": "failed", "text": text, "seconds": None}


def started(
    folder: Path, sets: tuple[str, ...], names: list[str], stderr: Any
) -> subprocess.Popen[str]:
    """A process with checks to run, or that answers something else by name (`plain_side.py`)."""
    command = [sys.executable, "-m", "mxa_lite.machine.selftest"]
    command.append(json.dumps({"folder": str(folder), "sets": sets, "names": names}))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)


def _asked() -> None:
    """What `started` asked for. Unsloth comes before everything that it patches."""
    request = json.loads(sys.argv[1])
    folder = Path(request["folder"])
    recipe = recipe_file.load("arithmetic", (*SETS, *request["sets"]))
    unsloth_first(recipe.model)
    if request["names"][0] in CRITERIA:
        from mxa_lite.machine import proofs

        other_side = partial(started, folder, (*request["sets"], "model.loader=plain"))
        proofs.run(proofs.Ground(recipe, folder, other_side), request["names"])
    else:
        from mxa_lite.machine import plain_side

        plain_side.answer(recipe, folder, request["names"][0])


if __name__ == "__main__":
    _asked()
