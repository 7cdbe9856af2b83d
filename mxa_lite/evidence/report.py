"""`report.html`: one self-contained page from whatever a run folder holds so far.

Text that a model wrote reaches the page in two ways only: through Jinja's escaping, or as
compressed JSON that `report.js` puts there with `textContent`.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from mxa_lite.evidence.warnings import first_due
from mxa_lite.runfolder import RunFolder

BUDGET = 7_000_000  # bytes of rollouts in the page
STEPS = 100  # steps with rollouts in the page, at most
TEXT = 20_000  # characters of one text
LONG = 40  # characters from which a text stands in the table
MOST = 400  # entries of any list
IDS = ("prompt_ids", "completion_ids")  # only counted
LEFT_OUT = ("logps", "tests", "meta")
SHADES = Markup(
    'Shaded: <span class="executor">the executor learns</span>, '
    '<span class="designer">the designer learns</span>. '
)


def highlight(script: str) -> list[tuple[str, str]]:
    """A Python script as (short token class, text); the texts together are the script."""
    found: list[tuple[str, str]] = []
    for kind, text in PythonLexer(stripnl=False, ensurenl=False).get_tokens(script):
        style = STANDARD_TYPES.get(kind, "")[:1]
        if found and found[-1][0] == style:
            text = found.pop()[1] + text
        found.append((style, text))
    return found


def pack(trees: Iterable[Mapping[str, Any]]) -> str:
    """Trees of `Tree.to_json` as base64 of gzipped JSON, as `report.js` reads it.

    Without token ids; long texts stand once in a table, and every script has its tokens beside it.
    """
    texts: dict[str, int] = {}

    def lean(value: Any, key: str = "") -> Any:
        if key in IDS:
            return len(value)
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
        for design, made in zip(tree["designs"], found[-1]["designs"], strict=True):
            made["tokens"] = highlight((design["script"] or "")[:TEXT])
    data = {"trees": found, "texts": list(texts)}
    packed = gzip.compress(json.dumps(data).encode(), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode()


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


def _of(lines: Sequence[Mapping[str, Any]], key: str, inner: str) -> list[Any]:
    return [(line.get(key) or {}).get(inner) for line in lines]


def figures(lines: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sections of the training, in order: name, what to know, charts (title, SVG)."""
    steps = [line["step"] for line in lines]
    roles = [line["role"] for line in lines]
    # A run of one agent alone has no designer, and nothing to say about one.
    cast = [r for r in charts.ROLE_COLOUR if any(_of(lines, "completion_length", r))]

    def chart(title: str, draw: Callable[..., str], *data: Any) -> dict[str, Any]:
        return {"title": title, "svg": Markup(draw(title, steps, *data))}

    def curve(title: str, series: Mapping[str, Any], top: float | None = None) -> dict[str, Any]:
        return chart(title, charts.lines, roles, series, top)

    def by_role(title: str, key: str) -> dict[str, Any]:
        return curve(title, {role: _of(lines, key, role) for role in cast})

    def stacked(title: str, key: str, share: bool = False) -> dict[str, Any]:
        names = list(dict.fromkeys(name for line in lines for name in line.get(key) or {}))
        series = {n: [v or 0.0 for v in _of(lines, key, n)] for n in names}
        return chart(title, charts.stack, series, share)

    def share(role: str) -> list[float | None]:
        groups = [g or {"total": 0, "signal": 0} for g in _of(lines, "groups", role)]
        return [g["signal"] / g["total"] if g["total"] else None for g in groups]

    shown = {"correct": "correct", "valid scripts": "valid_scripts"}
    correct = {label: [line.get(key) for line in lines] for label, key in shown.items()}
    kinds = {"within a design": "intra", "between designs": "inter"}
    spread = {label: _of(lines, "spread", key) for label, key in kinds.items()}
    learning = [
        curve("Share of executions correct, of scripts valid", correct, 1.02),
        by_role("Mean reward", "reward"),
    ]
    if during := results.get("during"):
        ends = {0: results.get("cold"), steps[-1]: results.get("final")}
        measured = {int(step): modes for step, modes in during.items()}
        measured |= {step: modes for step, modes in ends.items() if modes}
        learning.insert(0, chart("Held-out accuracy", charts.measured, roles, measured))
    copied = {"right and in the question": [line.get("paid_in_question") for line in lines]}
    outcomes = [
        stacked("Outcomes, share of executions", "outcomes", True),
        stacked("Patterns, share of designs", "patterns", True),
    ]
    health = [
        curve("Share of groups with signal", {r: share(r) for r in cast}, 1.02),
        curve("Spread of rewards, standard deviation", spread),
        by_role("Share of completions truncated", "truncated"),
        curve("Share of paid answers that stand in the question", copied, 1.02),
        by_role("Completion length, tokens", "completion_length"),
    ]
    cost = [stacked("Seconds a step, by phase", "seconds"), stacked("Tokens a step", "tokens")]
    shades = SHADES if set(roles) & set(charts.ROLE_COLOUR) else "Both roles learn in every step. "
    differ = "Only a group whose rewards differ has signal and teaches."
    sections = (
        ("Learning", shades + "Thin: each step; bold: mean of the last five.", learning),
        ("Outcomes and patterns", "Every outcome but ok earns no reward.", outcomes),
        ("Health of the signal", differ, health),
        ("Cost", "", cost),
    )
    return [{"name": name, "about": about, "charts": made} for name, about, made in sections]


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
    script, style = ((folder / f"report.{kind}").read_text("utf-8") for kind in ("js", "css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    empty: dict[str, Any] = dict.fromkeys(("steps", "sections", "evaluation", "swap", "note"), "")
    empty |= dict.fromkeys(("recipe", "ask", "version", "answer", "back", "kinds", "patterns"), "")
    empty |= {"summary": {}, "warnings": {}}
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
    ends = {when: results.get(when) or {} for when in ("cold", "final")}
    whose = "one agent" if mode == "single" else "the designed systems"
    modes = dict.fromkeys(name for end in ends.values() for name in end)
    rows = [(name, when, ends[when][name]) for name in modes for when in ends if name in ends[when]]
    steps = sample(run)
    return page(
        title=run.resolve().name,
        headline={when: end.get(mode) for when, end in ends.items()} | {"whose": whose},
        note="" if summary else f"not finished: {done} of {wanted or '?'} steps",
        steps=steps,
        done=done,
        sections=figures(lines, results) if lines else [],
        evaluation=rows,
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
