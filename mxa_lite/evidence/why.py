"""Why a run learned: the designs that `why.js` counts by kind of question and pattern. No torch.

`correct` of a design is the mean over its executions, 0 where the script never ran: in training as
graded, held out as paid.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from statistics import fmean

from mxa_lite.errors import json_lines
from mxa_lite.evidence.attempts import TRANSCRIPTS
from mxa_lite.runfolder import step_of

ENDS = 5  # steps at the beginning and at the end of the training
# Kind, pattern and correct of a design, and what its agents are told: each text once.
Row = tuple[str, str, float, str]
TOLD = re.compile(r"""\bAgent(?:Node)?\([^,()]*,\s*(?:system_prompt\s*=\s*)?(["'])(.+?)\1""")
LONGEST = 200  # characters of that


@lru_cache(4 * ENDS)
def _of_file(path: Path, size: int) -> list[Row]:
    """size: of the file, so that one that has changed is read again."""
    rows = []
    for tree in json_lines(path):
        kind = str(tree["question"]["meta"].get("kind", ""))
        for design in tree["designs"]:
            verdicts = [e["correct"] for e in design["executions"]]
            jobs = " + ".join({match[2]: 0 for match in TOLD.finditer(design["script"] or "")})
            correct = fmean(verdicts) if verdicts else 0.0
            rows.append((kind, design["pattern"], correct, jobs[:LONGEST]))
    return rows


def designs(run: Path) -> dict[str, list[Row]]:
    """The designs of the first and of the last steps, held out cold, and held out trained.

    Keyed by what the report calls these times; what is not written down is left out.
    """
    times: dict[str, list[Row]] = {}
    paths = sorted((run / "rollouts").glob("step-*.jsonl"))
    ends = (paths[:ENDS], paths[-ENDS:]) if len(paths) >= 2 * ENDS else (paths,)
    for files in filter(None, ends):
        first, last = step_of(files[0]), step_of(files[-1])
        rows = [row for path in files for row in _of_file(path, path.stat().st_size)]
        times[f"steps {first} to {last}" if first < last else f"step {first}"] = rows
    for when, name in (("cold", "held out, cold"), ("final", "held out, trained")):
        path = run / "predictions" / when / TRANSCRIPTS
        if path.is_file():
            times[name] = _of_file(path, path.stat().st_size)
    return times
