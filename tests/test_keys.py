"""The table of every key of a recipe, made from `recipes/base.yaml`. Run as a script, this file
writes it anew."""

from __future__ import annotations

import re
from pathlib import Path

from mxa_lite.recipe import file as recipe_file
from mxa_lite.recipe.keys import flat

PAGE = Path(__file__).parent.parent / "recipes" / "docs" / "keys.md"
NAMED = ("model", "task")  # their one value is their name
HEAD = """# Every key of a recipe

Made from the comments of [`base.yaml`](../base.yaml) by `python tests/test_keys.py`; a test holds
the two together. `--set train.steps=60` changes one. `FILE.py:NAME` is a function of yours.

| key | default, or an example | what it is |
|---|---|---|
"""


def rows() -> list[tuple[str, str, str]]:
    """(dotted key, default, explanation) for each line of `base.yaml` that has a key."""
    made: list[tuple[str, str, str]] = []
    block = ""
    for line in (recipe_file.SHIPPED / "base.yaml").read_text().splitlines():
        if line.startswith("#   "):  # `model` and `task`, which have no default there
            line = re.sub(r"(\S) {2,}(?=\S)", r"\1  # ", line[4:], count=1)
        if match := re.fullmatch(r"( *)([a-z_, ]+):( [^#]+?)? *(?:# (.*))?", line):
            indent, names, value, about = match.groups(default="")
            block = block if indent else names
            for name in names.split(", ") if value else ():
                key = f"{block}.{name}" if indent else f"{name}.name" if name in NAMED else name
                made.append((key, re.sub(r"^{name: (.+)}", r"\1", value.strip()), about))
        elif made and (more := re.fullmatch(r" +# *(.*)", line)):
            key, value, about = made.pop()
            made.append((key, value, f"{about} {more[1]}".strip()))
    return made


def page() -> str:
    cells = ([c.replace("|", "\\|") for c in row] for row in rows())
    return HEAD + "".join(f"| `{key}` | `{value}` | {about} |\n" for key, value, about in cells)


def test_the_table_is_that_of_base_yaml() -> None:
    assert PAGE.read_text() == page(), "python tests/test_keys.py writes it anew"


def test_every_key_stands_in_it_once() -> None:
    listed = [key for key, _, _ in rows()]
    keys = [key for key in flat(recipe_file.load("arithmetic")) if key != "own"]
    assert len(listed) == len(set(listed))
    assert {key for key in keys if not {key, key.rpartition(".")[0]} & {*listed}} == set()
    assert {key for key in listed if not any(f"{k}.".startswith(f"{key}.") for k in keys)} == set()


if __name__ == "__main__":
    PAGE.write_text(page())
