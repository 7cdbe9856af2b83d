"""`report.html`: one self-contained page from whatever a run folder holds so far.

Text that a model wrote reaches the page in two ways only: through Jinja's escaping, or as
compressed JSON that `report.js` puts there with `textContent`.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from mxa_lite.errors import json_lines, json_object
from mxa_lite.evidence import why
from mxa_lite.evidence.attempts import IDS, TRANSCRIPTS
from mxa_lite.evidence.warnings import first_due
from mxa_lite.recipe.keys import Model, Recipe, TaskSpec
from mxa_lite.records import Summary, When
from mxa_lite.runfolder import RunFolder, step_of

# The page stays under 5 MB; a thousand steps of curves take about half of one.
BUDGET = 2_200_000  # bytes of rollouts in the page
TRANSCRIPT_BUDGET = 1_600_000  # bytes of held-out transcripts
STEPS = 100  # steps with rollouts in the page, at most
TEXT = 20_000  # characters of one text
LONG = 40  # characters from which a text stands in the table
MOST = 400  # entries of any list
LEFT_OUT = ("logps", "tests", "meta")
ENDS: tuple[When, When] = ("cold", "final")
AGAIN = "predictions/eval/eval.json"  # what `mxa-lite eval` found


def squeeze(data: Any) -> str:
    """Data as base64 of gzipped JSON, as `report.js` reads it."""
    packed = gzip.compress(json.dumps(data).encode(), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode()


def pack(trees: Iterable[Mapping[str, Any]]) -> str:
    """Trees of `Tree.to_json`, squeezed.

    Without token ids; long texts stand once in a table.
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
        suffix = f"\n[{len(value) - TEXT} more]" if len(value) > TEXT else ""
        return {"text": texts.setdefault(value[:TEXT] + suffix, len(texts))}

    packed = []
    for tree in trees:
        packed.append(lean(tree))
        packed[-1]["kind"] = str((tree["question"].get("meta") or {}).get("kind", ""))
    return squeeze({"trees": packed, "texts": list(texts)})


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
        chosen[step_of(paths[index])] = data
    return [{"label": f"step {step}", "data": chosen[step]} for step in sorted(chosen)]


@lru_cache(2)
def _transcripts(paths: tuple[Path, ...], sizes: tuple[int, ...]) -> dict[str, Any]:
    """sizes: of the files, so that one that has changed is read again."""
    trees = [list(json_lines(path)) for path in paths]
    questions = count = min(map(len, trees))
    while True:
        chosen = sorted(spread_out(questions)[:count])
        data = [pack(of_file[i] for i in chosen) for of_file in trees]
        size = sum(map(len, data))
        if size <= TRANSCRIPT_BUDGET or count <= 1:
            return {"shown": count, "questions": questions, "data": data}
        count = max(1, int(0.9 * count * TRANSCRIPT_BUDGET / size))


def transcripts(run: Path) -> dict[str, Any]:
    """Held-out questions with their designs, as many as the page has room for; empty without.

    shown, questions: how many of how many. whens: which adapters, in order; data: packed, of each.
    """
    files = {when: run / "predictions" / when / TRANSCRIPTS for when in ENDS}
    saved = {when: path for when, path in files.items() if path.is_file() and path.stat().st_size}
    if not saved:
        return {}
    sizes = tuple(path.stat().st_size for path in saved.values())
    return {"whens": list(saved), **_transcripts(tuple(saved.values()), sizes)}


def _rounded(value: Any) -> Any:
    """Four digits are more than a curve shows, and a third of the size."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items() if key != "memory"}
    return float(f"{value:.4g}") if isinstance(value, float) else value


@cache
def environment() -> Environment:
    """Templates of the package; everything put into a page is escaped."""
    return Environment(
        loader=PackageLoader("mxa_lite"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
    )


def dressed(template: str, scripts: Iterable[str], **parts: Any) -> str:
    """A page of the package as text. A policy in it forbids the network and all but our scripts."""
    folder = files("mxa_lite") / "templates"
    style = (folder / "report.css").read_text("utf-8")
    script = "\n".join((folder / f"{name}.js").read_text("utf-8") for name in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page_template = environment().get_template(template)
    return page_template.render(script=Markup(script), style=Markup(style), digest=digest, **parts)


def page(**parts: Any) -> str:
    """The report as text; what is not given is left out."""
    empty: dict[str, Any] = dict.fromkeys(("steps", "numbers", "designs", "note", "stored"), "")
    empty |= dict.fromkeys(("recipe", "ask", "version", "answer", "back", "transcripts"), "")
    empty |= {"summary": {}, "warnings": {}, "results": {}, "again": {}, "lines": [], "mode": ""}
    context = {**empty, "headline": {"cold": None, "final": None}, **parts}
    scripts = ("report", "why", "curves", "transcripts", "start")
    return dressed("report.html.j2", scripts, **context)


def framed(page: str) -> str:
    """A page in a frame of its own, as a notebook shows it."""
    framed = html.escape(page)
    return f'<iframe srcdoc="{framed}" width="100%" height="560" frameborder="0"></iframe>'


def version(run: Path) -> str:
    """Changes whenever something that the report shows has changed."""
    names = ("metrics.jsonl", "eval.json", "summary.json", AGAIN)
    return "-".join(str((run / n).stat().st_size) for n in names if (run / n).is_file()) or "0"


def render(run: Path, **parts: Any) -> str:
    """The report of a run folder as HTML; missing or unfinished parts are left out."""
    folder = RunFolder(run)
    lines = folder.read_metrics()
    results, again = folder.results(), folder.read_json(AGAIN)
    final = results.get("final") or {}
    again["final"] = {m: n for m, n in again.get("final", {}).items() if n != final.get(m)}
    stored = run / "recipe.yaml"
    text = stored.read_text("utf-8") if stored.is_file() else ""
    recipe = yaml.safe_load(text) or {}
    planned_steps = (recipe.get("train") or {}).get("steps")
    summary: Summary = folder.read_json("summary.json")
    mode = "single" if recipe.get("method") == "single_agent" else "designed"
    last_step = lines[-1]["step"] if lines else 0
    ends = {when: (results.get(when) or {}).get(mode) for when in ENDS}
    numbers = {"lines": [_rounded(line) for line in lines], "mode": mode, "results": results}
    defaults = Recipe(model=Model(), task=TaskSpec(name="arithmetic")).model_dump(mode="json")
    return page(
        title=run.resolve().name,
        headline=ends | {"whose": "one agent" if mode == "single" else "the designed systems"},
        note="" if summary else f"not finished: {last_step} of {planned_steps or '?'} steps",
        steps=sample(run),
        done=last_step,
        lines=lines,
        numbers=squeeze(numbers) if lines else "",
        designs=squeeze(why.designs(run)) if mode == "designed" else "",
        transcripts=transcripts(run),
        results=results,
        again=again,
        mode=mode,
        summary=summary,
        warnings=first_due(lines),
        recipe=recipe,
        defaults=defaults,
        stored=text,
        version=version(run),
        **parts,
    )


def build(run: Path) -> Path:
    RunFolder(run).write("report.html", render(run))
    return run / "report.html"
