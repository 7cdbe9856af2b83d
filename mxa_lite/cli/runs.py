"""Commands that take runs: eval, design, serve, compare, export; and bench."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mxa_lite.cli import console
from mxa_lite.cli.group import FILE, FOLDER, cli, json_option, sets_option, smoke_option
from mxa_lite.errors import InputError
from mxa_lite.runs.stored import stored_recipe
from mxa_lite.stdio import printable, stdout_for_json

if TYPE_CHECKING:  # torch is not needed for --help
    from mxa_lite.tree import Call, Design


@cli.command("eval")
@click.argument("run", type=FOLDER)
@click.option("--with", "beside", type=FOLDER, help="A second run, e.g. `method: single_agent`.")
@sets_option
@json_option
def eval_(run: Path, beside: Path | None, sets: tuple[str, ...], as_json: bool) -> None:
    """Accuracy of a run's checkpoint, of baselines and of fixed systems, with intervals."""
    for folder in (run, beside) if beside else (run,):
        console.announce(stored_recipe(folder, sets, checkpoint=True))
    with stdout_for_json(as_json):
        from mxa_lite.runs.eval_run import evaluate_run

        result = evaluate_run(run, beside, sets)
    if as_json:
        console.print_json(result)
        return
    interval = "{:6.3f} [{:6.3f}, {:6.3f}]".format
    for group, modes in (("final", result["final"]), ("with", result.get("with", {}))):
        for mode, m in modes.items():
            numbers = interval(m["accuracy"], m["low"], m["high"])
            cost = f"{m['calls']:.1f} calls, {m['tokens']:.0f} tokens"
            seconds = result["seconds"][group].get(mode)  # one chosen among others has none
            cost += f", {seconds:.2f} s" if seconds is not None else ""
            click.echo(f"{group:5s} {mode:18s} {numbers}  pass@k {m['pass_at_k']:.3f}  {cost}")
    first = next(iter(result["final"]))
    for d in [d for d in result["differences"] if d["a"] == first]:
        numbers = interval(d["difference"], d["low"], d["high"])
        click.echo(f"{d['b']} - {d['a']}: {numbers}")


def _tell(step: Design | Call) -> None:
    from mxa_lite.tree import Design

    if isinstance(step, Design):
        head = f"script ({step.pattern})" if step.script else "the designer, without a script"
        click.echo(f"--- {head}\n{printable(step.script or step.call.reply)}")
    else:
        click.echo(f"--- {printable(step.agent)} ({step.path or 'alone'})\n{printable(step.reply)}")


@cli.command()
@click.argument("run", type=FOLDER)
@click.argument("question")
@click.option("--html", type=FILE, help="Write the same as a page.")
@json_option
def design(run: Path, question: str, html: Path | None, as_json: bool) -> None:
    """The script for one question, its calls as they happen, its graph, the answer."""
    recipe = stored_recipe(run, checkpoint=True)
    console.announce(recipe)
    if not question.strip():
        raise InputError("the question is empty")
    if html is not None:
        console.check_folder("--html", html.parent)
        if html.is_dir():
            raise InputError(f"--html {html}: is a folder")
    with stdout_for_json(as_json):
        from mxa_lite.runs.ask import ask, drawn, kind_of, opened

        watching = () if as_json else (_tell,)
        with opened(run) as sampler:
            answered = ask(sampler, question, kind_of(run, recipe), *watching)
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(answered.page(), encoding="utf-8")
    result = answered.to_json()
    if as_json:
        console.print_json(result)
        return
    if lines := drawn(result["graph"]["nodes"]):
        click.echo("\n".join(["--- graph", *lines]))
    if answered.reason is not None:
        click.echo(f"the design failed ({printable(answered.reason)}); a single agent answered")
    click.echo(f"answer: {printable(answered.answer or 'none')}")


@cli.command()
@click.argument("run", type=FOLDER)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="By default any free one.")
def serve(run: Path, port: int) -> None:
    """The report, live, and a box to ask a question; for this machine only."""
    console.announce(stored_recipe(run))
    from mxa_lite.runs.serve import Server

    try:
        server = Server(run, port)
    except OSError as error:
        raise InputError(f"--port {port}: {error.strerror}") from None
    click.echo(f"{server.link}\nCtrl-C ends it.")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        click.echo()
    finally:
        server.server_close()


def _seeds(_: click.Context, __: click.Parameter, text: str | None) -> list[int]:
    try:
        return sorted({int(seed) for seed in text.split(",")}) if text else []
    except ValueError:
        raise click.BadParameter(f'"{text}" must look like "1,2,3"') from None


@cli.command()
@click.argument("runs_or_recipes", nargs=-1, required=True)
@click.option("--seeds", callback=_seeds, help="For recipes, e.g. 1,2,3; else each recipe's own.")
@sets_option
@click.option("--output", type=FOLDER, default=Path("comparison"), show_default=True)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Runs at once.")
@click.option("--resume", is_flag=True, help="Go on with runs that are not finished.")
@smoke_option
def compare(
    runs_or_recipes: tuple[str, ...],
    seeds: list[int],
    sets: tuple[str, ...],
    output: Path,
    jobs: int,
    resume: bool,
    smoke: bool,
) -> None:
    """Train what is missing, pool seeds, write compare.md, compare.json and compare.html.

    `--set` changes a key of every recipe that is trained, not of runs.
    """
    console.check_folder("--output", output)
    from mxa_lite.runs.compare import compare as compare_runs

    say = partial(click.echo, err=True)
    compare_runs(runs_or_recipes, seeds, output, jobs, say, sets, resume, smoke)
    click.echo((output / "compare.md").read_text(encoding="utf-8"), nl=False)


@cli.command()
@click.argument("run", type=FOLDER)
@click.option("--adapters", type=FOLDER, help="LoRA adapters for PEFT.")
@click.option("--merged", type=FOLDER, help="Whole 16-bit models for Transformers and others.")
@sets_option
def export(run: Path, adapters: Path | None, merged: Path | None, sets: tuple[str, ...]) -> None:
    """The trained roles as standard folders, DIR/designer and DIR/executor, each with a card."""
    target = adapters or merged
    if target is None or (adapters and merged):
        raise click.UsageError("give one of --adapters and --merged")
    form = "adapters" if adapters else "merged"
    console.check_folder(f"--{form}", target)
    if target.is_dir() and any(target.iterdir()):
        raise InputError(f"--{form} {target}: is not an empty folder")
    recipe = stored_recipe(run, sets, checkpoint=True)
    from mxa_lite.runs.export import export_adapters, export_merged

    (export_adapters if adapters else export_merged)(run, recipe, target)
    for folder in sorted(target.iterdir()):
        click.echo(folder)


@cli.command()
@click.option("--model", default="embedded", help="A local folder or a Hub id.")
@sets_option
@json_option
def bench(model: str, sets: tuple[str, ...], as_json: bool) -> None:
    """This machine's rollout, sandbox and update speed, as ratios; takes some minutes."""
    from mxa_lite.policy import unsloth_first
    from mxa_lite.recipe import file as recipe_file

    sets = (f"model.name={model}", *sets)
    unsloth_first(recipe_file.load("arithmetic", sets).model)
    with stdout_for_json(as_json):
        from mxa_lite.machine.bench import bench as measure
        from mxa_lite.machine.bench import described

        result = measure(sets, lambda text: click.echo(f"measuring: {text}", err=True))
    if as_json:
        console.print_json(result)
        return
    for line in described(result):
        click.echo(line)
