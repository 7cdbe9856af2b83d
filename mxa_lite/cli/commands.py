"""Commands about a recipe, a script, a file of answers or this machine; and `run` itself."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mxa_lite.cli import console
from mxa_lite.cli.group import FILE, FOLDER, cli, json_option, sets_option, smoke_option
from mxa_lite.errors import read_text
from mxa_lite.runs.stored import stored_recipe
from mxa_lite.stdio import printable, stdout_for_json

CARDS = ("3060", "t4", "4090", "a100", "h200")  # a test holds them to machine/hours.yaml


@cli.command()
@click.argument("recipe")
@sets_option
@click.option("--output", type=FOLDER, help="Run folder; by default runs/<recipe>.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
@smoke_option
def run(recipe: str, sets: tuple[str, ...], output: Path | None, resume: bool, smoke: bool) -> None:
    """Cold start, training, evaluation before and after, report."""
    from mxa_lite.policy import unsloth_first
    from mxa_lite.recipe import file as recipe_file
    from mxa_lite.rollout import own_ideas

    loaded = recipe_file.load(recipe, sets)
    folder = output or console.default_output(recipe_file.find(recipe), resume, smoke)
    if smoke:
        loaded = recipe_file.smoked(loaded, sets)
        click.echo(f"--smoke: a few steps and questions, in {folder}; its numbers mean nothing")
    console.check_output(folder, loaded, resume)
    console.announce(loaded)
    own_ideas.try_all(loaded)
    click.echo("loading libraries, model and data", err=True)  # half a minute on a busy machine
    unsloth_first(loaded.model)

    from mxa_lite.runs.train import run as run_recipe

    run_recipe(loaded, folder, resume)
    if smoke:
        click.echo("--smoke: it ran to the end; none of the numbers above means anything")


@cli.command()
@click.argument("recipe")
@sets_option
def validate(recipe: str, sets: tuple[str, ...]) -> None:
    """Check a recipe, its data files and its own code, and print it with everything filled in."""
    from mxa_lite.recipe import file as recipe_file
    from mxa_lite.rollout import own_ideas
    from mxa_lite.tasks.load import check_files

    loaded = recipe_file.load(recipe, sets)
    console.announce(loaded)
    own_ideas.try_all(loaded)
    for note in check_files(loaded.task):
        click.echo(note, err=True)
    click.echo(recipe_file.dump(loaded), nl=False)


@cli.command()
def recipes() -> None:
    """List the recipes in the package."""
    from mxa_lite.recipe import file as recipe_file

    names = recipe_file.shipped()
    for name in names:
        about = recipe_file.headline(name)
        click.echo(f"{name:<{max(map(len, names))}}  {about}")


@cli.command()
@click.argument("recipe")
@click.option("--vram", type=click.FloatRange(min=0, min_open=True), help="In GB.")
@click.option("--card", type=click.Choice(CARDS), help="With its memory, unless --vram is given.")
@click.option(
    "--bandwidth", type=click.FloatRange(min=0, min_open=True), help="Of another card, in GB/s."
)
@sets_option
@json_option
def plan(
    recipe: str,
    vram: float | None,
    card: str | None,
    bandwidth: float | None,
    sets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Will a recipe fit a GPU, what to lower if not, and about how many hours it takes."""
    if vram is None and card is None:
        raise click.UsageError("give --vram GB or --card")
    from mxa_lite.machine.plan import describe
    from mxa_lite.machine.plan import plan as plan_recipe
    from mxa_lite.recipe import file as recipe_file

    loaded = recipe_file.load(recipe, sets, data_files=False)
    result = plan_recipe(loaded, vram, card, bandwidth)
    if as_json:
        console.print_json(result)
    else:
        click.echo(describe(result))


@cli.command("exec")
@click.argument("script", type=FILE)
@click.option("--question", required=True, help="What the script sees as `question`.")
@click.option("--replies", type=FILE, help='JSONL of {"agent", "reply"}; "*" is any agent.')
@click.option("--model", type=FOLDER, metavar="RUN", help="A run, whose executor replies.")
@click.option("--kind", type=click.Choice(["math", "code"]), default="math", show_default=True)
@sets_option
@json_option
def exec_(
    script: Path,
    question: str,
    replies: Path | None,
    model: Path | None,
    kind: str,
    sets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run any script in the sandbox, with canned replies or a model.

    `--set` takes sandbox.* and rollout.max_calls.
    """
    if model and replies:
        raise click.UsageError("--model and --replies exclude each other")
    source = read_text(script)
    if model is not None:
        console.announce(stored_recipe(model, sets, checkpoint=True))
        with stdout_for_json(as_json):
            from mxa_lite.rollout.canned import execute
            from mxa_lite.runs.ask import opened

            with opened(model, sets) as sampler:
                result = execute(sampler, source, question, kind)
    else:
        from mxa_lite.recipe import file as recipe_file
        from mxa_lite.rollout.canned import execute_canned

        recipe = recipe_file.load("arithmetic", sets)
        result = execute_canned(source, question, kind, replies, recipe)
    if as_json:
        console.print_json(result)
        return
    for call in result["calls"]:
        click.echo(printable(f"[{call['agent']}] {call['reply']}"))
    if result["stdout"]:
        click.echo(printable(f"--- printed\n{result['stdout'].rstrip()}"))
    if result["stderr"]:  # of an error: the traceback, which names the line
        click.echo(printable(result["stderr"].rstrip()), err=True)
    why = f" ({result['error']})" if result["error"] else ""
    click.echo(printable(f"outcome: {result['outcome']}{why}\nanswer: {result['answer']}"))


@cli.command()
@click.argument("file", type=FILE)
@json_option
def grade(file: Path, as_json: bool) -> None:
    """Verdicts for lines {"task", "gold" or "tests", "answer"} of a JSONL file."""
    with stdout_for_json(as_json):
        from mxa_lite.tasks.grade import grade_file

        verdicts = grade_file(file)
    if as_json:
        console.print_json({"verdicts": verdicts})
    else:
        for number, verdict in enumerate(verdicts, 1):
            click.echo(f"{number}: {'correct' if verdict else 'wrong'}")


@cli.command()
@click.argument("run", type=FOLDER)
def report(run: Path) -> None:
    """Rebuild a run's report.html."""
    stored_recipe(run)
    from mxa_lite.evidence.report import build

    click.echo(build(run))


@cli.command()
def doctor() -> None:
    """Versions, device, dtype and why, sandbox level."""
    from mxa_lite.machine.doctor import report

    for line in report():
        click.echo(line)


@cli.command()
@sets_option
@click.option(
    "--output", type=FILE, default="selftest.json", show_default=True, help="To attach to a report."
)
def selftest(sets: tuple[str, ...], output: Path) -> int:
    """Does this machine compute what it should: checks of some minutes, exit 1 if one fails."""
    console.check_folder("--output", output.parent)
    from mxa_lite.machine.selftest import selftest as check_all

    result = check_all(sets, lambda text: click.echo(printable(text)))
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(f"{'all that ran passed' if result['passed'] else 'FAILED'}; details in {output}")
    return 0 if result["passed"] else 1
