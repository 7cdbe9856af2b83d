"""`report.html`: one self-contained page from whatever a run folder holds so far.

Text that a model wrote reaches the page in two ways only: through Jinja's escaping, or as
compressed JSON that `report.js` puts there with `textContent`.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from pygments.lexers.python import PythonLexer
from pygments.token import STANDARD_TYPES

from mxa_lite.errors import json_object
from mxa_lite.evidence import charts
from mxa_lite.evidence.attempts import IDS, TRANSCRIPTS
from mxa_lite.evidence.warnings import first_due
from mxa_lite.evidence.why import why
from mxa_lite.recipe.keys import Model, Recipe, TaskSpec, dotted, flat
from mxa_lite.runfolder import RunFolder

# The page stays under 5 MB; a thousand steps of curves take about half of one.
BUDGET = 2_200_000  # bytes of rollouts in the page
TRANSCRIPT_BUDGET = 1_600_000  # bytes of held-out transcripts
STEPS = 100  # steps with rollouts in the page, at most
TEXT = 20_000  # characters of one text
LONG = 40  # characters from which a text stands in the table
MOST = 400  # entries of any list
LEFT_OUT = ("logps", "tests", "meta")
ENDS = ("cold", "final")
RIVALS = {
    "single": "one agent",
    "self_consistency": "self-consistency",
    "fixed_best": "best fixed system",
    "oracle_kind": "best fixed system of each kind",
    "router": "hand-written router",
}
ALONE = {
    "trained_cold": "only the designer trained",
    "cold_trained": "only the executor trained",
}


def highlight(script: str) -> list[tuple[str, str]]:
    """A Python script as (short token class, text); the texts together are the script."""
    found: list[tuple[str, str]] = []
    for kind, text in PythonLexer(stripnl=False, ensurenl=False).get_tokens(script):
        style = STANDARD_TYPES.get(kind, "")[:1]
        if found and found[-1][0] == style:
            text = found.pop()[1] + text
        found.append((style, text))
    return found


def squeeze(data: Any) -> str:
    """Data as base64 of gzipped JSON, as `report.js` reads it."""
    packed = gzip.compress(json.dumps(data).encode(), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode()


def pack(trees: Iterable[Mapping[str, Any]]) -> str:
    """Trees of `Tree.to_json`, squeezed.

    Without token ids; long texts stand once in a table, and every script has its tokens beside it.
    """
    texts: dict[str, int] = {}

    def lean(value: Any, key: str = "") -> Any:
        if key in IDS:
            return value if isinstance(value, int) else len(value)
        if isinstance(value, dict):
            return {k: lean(v, k) for k, v in value.items() if k not in LEFT_OUT}
        if isinstance(value, list):
            return [lean(item) for item in value[:MOST]]
        if not isinstance(value, str) or len(value) < LONG:
            return value
        rest = f"\n[{len(value) - TEXT} more]" if len(value) > TEXT else ""
        return {"text": texts.setdefault(value[:TEXT] + rest, len(texts))}

    found = []
    for tree in trees:
        found.append(lean(tree))
        found[-1]["kind"] = str((tree["question"].get("meta") or {}).get("kind", ""))
        for design, made in zip(tree["designs"], found[-1]["designs"], strict=True):
            made["tokens"] = highlight((design["script"] or "")[:TEXT])
    return squeeze({"trees": found, "texts": list(texts)})


def spread_out(count: int) -> list[int]:
    """0..count-1, ends first, then middles: any beginning of it covers the whole evenly."""
    order, gaps = [0, count - 1][:count], [(0, count - 1)]
    for low, high in gaps:
        if high - low > 1:
            middle = (low + high) // 2
            order.append(middle)
            gaps += [(low, middle), (middle, high)]
    return order


@lru_cache(STEPS)
def packed(path: Path, size: int) -> str:
    """A file of rollouts, packed. size: of the file, so that one that has changed is read again."""
    with path.open(encoding="utf-8") as file:
        return pack(json_object(line, f"{path} line {n}") for n, line in enumerate(file, 1))


def sample(run: Path) -> list[dict[str, str]]:
    """Packed rollouts of some steps, as many as the page has room for, in order."""
    paths = sorted((run / "rollouts").glob("step-*.jsonl"))
    chosen: dict[int, str] = {}
    for index in spread_out(len(paths))[:STEPS]:
        data = packed(paths[index], paths[index].stat().st_size)
        if chosen and sum(map(len, chosen.values())) + len(data) > BUDGET:
            break
        chosen[int(paths[index].stem.removeprefix("step-"))] = data
    return [{"label": f"step {step}", "data": chosen[step]} for step in sorted(chosen)]


@lru_cache(2)
def _transcripts(paths: tuple[Path, ...], sizes: tuple[int, ...]) -> dict[str, Any]:
    """sizes: of the files, so that one that has changed is read again."""
    lines = [path.read_text("utf-8").splitlines() for path in paths]
    questions = min(map(len, lines))
    order, count = spread_out(questions), questions
    while True:
        chosen = sorted(order[:count])
        trees = [[json.loads(of_file[i]) for i in chosen] for of_file in lines]
        data = [pack(of_file) for of_file in trees]
        size = sum(map(len, data))
        if size <= TRANSCRIPT_BUDGET or count <= 1:
            return {"shown": count, "questions": questions, "data": data}
        count = max(1, min(count - 1, int(0.95 * count * TRANSCRIPT_BUDGET / size)))


def transcripts(run: Path) -> dict[str, Any]:
    """Held-out questions with their designs, as many as the page has room for; empty without.

    shown, questions: how many of how many. whens: which adapters, in order; data: packed, of each.
    """
    files = {when: run / "predictions" / when / TRANSCRIPTS for when in ENDS}
    there = {when: path for when, path in files.items() if path.is_file() and path.stat().st_size}
    if not there:
        return {}
    sizes = tuple(path.stat().st_size for path in there.values())
    return {"whens": list(there), **_transcripts(tuple(there.values()), sizes)}


def _rounded(value: Any) -> Any:
    """Four digits are more than a curve shows, and a third of the size."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items() if key != "memory"}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def curves(lines: Sequence[Mapping[str, Any]], results: Mapping[str, Any], mode: str) -> str:
    """What `curves.js` draws, squeezed: the lines of metrics, and the main mode's held-out numbers
    by step; the cold adapters' at 0, the trained ones' at the last."""
    measured = {int(step): modes for step, modes in (results.get("during") or {}).items()}
    measured |= {0: results.get("cold") or {}, lines[-1]["step"]: results.get("final") or {}}
    points = [
        {"step": step, **{key: measured[step][mode][key] for key in ("accuracy", "low", "high")}}
        for step in sorted(measured)
        if mode in measured[step]
    ]
    data = {"lines": [_rounded(line) for line in lines], "measured": points}
    return squeeze(data | {"colours": charts.COLOUR, "window": charts.WINDOW})


def beside(mode: str, results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The main mode cold and trained, each role trained alone, and the rivals after training."""
    ends = {when: results.get(when) or {} for when in ENDS}
    rows = [
        ("cold", ends["cold"].get(mode)),
        ("trained", ends["final"].get(mode)),
        *((label, (results.get("swap") or {}).get(cell)) for cell, label in ALONE.items()),
        *((label, ends["final"].get(name)) for name, label in RIVALS.items() if name != mode),
    ]
    return [(label, numbers) for label, numbers in rows if numbers]


def _differences(recipe: dict[str, Any]) -> dict[str, Any]:
    """The keys of a stored recipe whose values are not the defaults."""
    defaults = flat(Recipe(model=Model(), task=TaskSpec(name="arithmetic")))
    apart = ("versions", "own", "task.name", "model.name")  # said elsewhere, or no choice
    return {
        key: value
        for key, value in dotted(recipe).items()
        if not key.startswith(apart) and defaults.get(key) != value
    }


def _duration(lines: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> str:
    """Of the training's steps and the evaluations before and after it, as far as measured."""
    seconds = sum(sum(line["seconds"].values()) for line in lines)
    for when, by_mode in (results.get("seconds") or {}).items():
        modes = results.get(when) or {}
        seconds += sum(s * modes.get(mode, {}).get("attempts", 0) for mode, s in by_mode.items())
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


@cache
def environment() -> Environment:
    """Templates of the package; everything put into a page is escaped."""
    return Environment(
        loader=PackageLoader("mxa_lite"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
    )


def page(**parts: Any) -> str:
    """The page as text. A policy in it forbids the network and every script but our own."""
    folder = files("mxa_lite") / "templates"
    style = (folder / "report.css").read_text("utf-8")
    names = ("report.js", "curves.js", "transcripts.js", "start.js")
    script = "\n".join((folder / name).read_text("utf-8") for name in names)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    empty: dict[str, Any] = dict.fromkeys(("steps", "curves", "evaluation", "swap", "note"), "")
    empty |= dict.fromkeys(("recipe", "ask", "version", "answer", "back", "kinds", "patterns"), "")
    empty |= dict.fromkeys(("facts", "beside", "why", "transcripts", "differences"), "")
    empty["hand_written"] = []
    empty |= {"summary": {}, "warnings": {}, "colours": charts.COLOUR}
    given = {**empty, "headline": {"cold": None, "final": None}, **parts}
    page = environment().get_template("report.html.j2")
    return page.render(script=Markup(script), style=Markup(style), digest=digest, **given)


def patterns_by_kind(ends: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the designer wrote for each kind of question: the patterns, and rows of their shares.

    A row: (kind, when, a share for each pattern). Empty where questions have no kinds.
    """
    tables = {when: m.get("kinds") or {} for when, m in ends.items()}
    names = {
        name for kinds in tables.values() for own in kinds.values() for name in own["patterns"]
    }
    order = sorted(names)
    rows = [
        (kind, when, [kinds[kind]["patterns"].get(name, 0.0) for name in order])
        for kind in sorted({kind for kinds in tables.values() for kind in kinds})
        for when, kinds in tables.items()
        if kind in kinds
    ]
    return {"names": order, "rows": rows} if rows else {}


def _task(task: Any) -> str:
    """What a stored recipe's `task` block reads its questions from."""
    if not isinstance(task, dict):
        return str(task or "")
    sources = [task.get("name") or task.get("train") or "", *map(_task, task.get("mix") or [])]
    return ", ".join(filter(None, map(str, sources)))


def version(run: Path) -> str:
    """Changes whenever something that the report shows has changed."""
    names = ("metrics.jsonl", "eval.json", "summary.json")
    return "-".join(str((run / n).stat().st_size) for n in names if (run / n).is_file()) or "0"


def render(run: Path, **parts: Any) -> str:
    """The report of a run folder as HTML; missing or unfinished parts are left out."""
    folder = RunFolder(run)
    lines = folder.read_metrics()
    results = folder.read_json("eval.json")
    stored = run / "recipe.yaml"
    text = stored.read_text("utf-8") if stored.is_file() else ""
    recipe = yaml.safe_load(text) or {}
    wanted = (recipe.get("train") or {}).get("steps")
    summary = folder.read_json("summary.json")
    mode = "single" if recipe.get("method") == "single_agent" else "designed"
    done = lines[-1]["step"] if lines else 0
    ends = {when: results.get(when) or {} for when in ENDS}
    whose = "one agent" if mode == "single" else "the designed systems"
    modes = dict.fromkeys(name for end in ends.values() for name in end)
    rows = [(name, when, ends[when][name]) for name in modes for when in ends if name in ends[when]]
    steps = sample(run)
    model = recipe.get("model") or {}
    facts = {
        "model": " ".join(str(model[key]) for key in ("name", "quantization") if key in model),
        "task": _task(recipe.get("task")),
        "machine": (recipe.get("versions") or {}).get("machine"),
        "finished": summary.get("finished"),
        "training and evaluation": _duration(lines, results) if lines else None,
    }
    return page(
        title=run.resolve().name,
        headline={when: end.get(mode) for when, end in ends.items()} | {"whose": whose},
        note="" if summary else f"not finished: {done} of {wanted or '?'} steps",
        steps=steps,
        done=done,
        curves=curves(lines, results, mode) if lines else "",
        facts={name: fact for name, fact in facts.items() if fact},
        differences=_differences(recipe) if recipe else {},
        beside=beside(mode, results),
        why=why(run) if mode == "designed" else {},
        transcripts=transcripts(run),
        evaluation=rows,
        hand_written=[m for m in modes if m.startswith("fixed_") and m != "fixed_best"],
        seconds=results.get("seconds") or {},
        swap=results.get("swap") or {},
        summary=summary,
        warnings=first_due(lines),
        kinds=list(dict.fromkeys(kind for *_, m in rows for kind in m.get("kinds") or {})),
        patterns=patterns_by_kind({when: end.get(mode) or {} for when, end in ends.items()}),
        recipe=text,
        version=version(run),
        **parts,
    )


def build(run: Path) -> Path:
    """Write `report.html` into the run folder."""
    RunFolder(run).write("report.html", render(run))
    return run / "report.html"
