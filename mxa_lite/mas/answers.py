r"""Reads replies: boxes, blocks, scripts, and whether two answers are the same value.

Standard library only: it runs in the sandbox (votes, deliveries) and in the parent (answers, format
reward). Every function is linear in its text, since the text is a model's.
"""

from __future__ import annotations

import ast
import re
import warnings
from fractions import Fraction

_BRACES = re.compile(r"(\\boxed\s*\{)|\\[{}]|([{}])")
_SCRIPT = re.compile(r"^\s*(?:from|import)\s+(?:workflow|mas)\b|\banswer\s*\(|\.run\s*\(", re.M)
_FRACTION = re.compile(r"\\[dt]?frac(?:\{([^{}]*)\}|(\d))(?:\{([^{}]*)\}|(\d))")
_NUMBER = re.compile(r"([-+]?)\(?(-?(?:\d+\.?\d*|\.\d+))\)?(?:/\(?(-?\d+\.?\d*)\)?)?")
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_NOISE = re.compile(r"\\left|\\right|\\[,;:! ()\[\]]|\\?\$|\^\{?\\circ\}?|\.$")
_SPACE = re.compile(r"(?<!\w)\s+|\s+(?![\w(])")
_HEAD, _TAIL = 200, 800


def last_boxed(text: str) -> str | None:
    r"""Content of the last complete `\boxed{}`, braces balanced; the inner one of two nested."""
    best: tuple[int, int] | None = None
    opened: list[int | None] = []  # where a box's content starts, None for a plain brace
    for match in _BRACES.finditer(text):
        if match[1]:
            opened.append(match.end())
        elif match[2] == "{":
            opened.append(None)
        elif match[2] and opened:
            start = opened.pop()
            if start is not None and (best is None or start > best[0]):
                best = (start, match.start())
    return text[best[0] : best[1]].strip() if best else None


def _last_block(text: str, tag: str) -> str | None:
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    return (text[start + len(tag) + 2 : end].strip() or None) if start >= 0 else None


def fences(text: str) -> list[tuple[str, str]]:
    """Fenced blocks as (language, body); one that is still open at the end counts."""
    blocks = []
    for part in text.split("```")[1::2]:
        language, newline, body = part.partition("\n")
        named = newline and re.fullmatch(r"[\w+-]*\s*", language)
        blocks.append((language.strip().lower(), body.rstrip()) if named else ("", part.strip()))
    return blocks


def _unfenced(block: str | None) -> str | None:
    """The last fenced block, of Python where one says so (what a program printed may follow)."""
    inner = fences(block) if block else []
    inner = [one for one in inner if one[0] in ("python", "python3", "py")] or inner
    return inner[-1][1] if inner else block


def last_solution(text: str) -> str | None:
    """The program in the last `<solution>` block, without fences."""
    return _unfenced(_last_block(text, "solution"))


def delivery(text: str) -> str | None:
    """The last non-empty `<delivery>` block."""
    return _last_block(text, "delivery")


def shorten(text: str) -> str:
    """Head and tail of a long text. A longer text never comes out shorter than a shorter one."""
    if len(text) <= _HEAD + _TAIL:
        return text
    return f"{text[:_HEAD]}\n...\n{text[-_TAIL:]}"


def deliverable(text: str, kind: str = "math") -> str:
    """What other agents see of a reply: its delivery, completed with the answer if that is missing.

    Without a delivery: the text without its thinking, shortened; in a code task the solution.
    """
    text = text.rpartition("</think>")[2]
    block = delivery(text)
    if kind == "code":
        solution = last_solution(text)
        if solution and solution not in (block or ""):
            return f"{block or ''}\n<solution>\n{solution}\n</solution>".lstrip()
    elif block and (box := last_boxed(text)) is not None and last_boxed(block) != box:
        return f"{block} \\boxed{{{box}}}"
    return block or shorten(text.strip())


def in_form(text: str, kind: str = "math") -> bool:
    r"""Whether the answer is in the form that parses: a filled `\boxed{}` or `<solution>`."""
    return bool(last_boxed(text) if kind == "math" else last_solution(text))


def extract(text: str, kind: str = "math") -> str:
    """The answer of an answering message: last box or solution, else fence (code), else text."""
    found = last_boxed(text) if kind == "math" else last_solution(text) or _unfenced(text.strip())
    return text.strip() if found is None else found


def value(text: str) -> Fraction | str:
    """An answer as something hashable: an exact number where it is one, else normalised text."""
    plain = _NOISE.sub("", _FRACTION.sub(r"(\1\2)/(\3\4)", text.strip()))
    plain = re.sub(r"^[a-zA-Z]=", "", _SPACE.sub("", plain))
    number = _NUMBER.fullmatch(plain.replace(",", "") if _GROUPED.fullmatch(plain) else plain)
    if number and len(plain) < 100 and (over := Fraction(number[3] or 1)):
        return Fraction(f"{number[1]}1") * Fraction(number[2]) / over
    return plain.lower() if plain.isalpha() else plain


def program(text: str) -> str:
    """A program without what does not change it: comments, blank lines, layout."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in a model's program
            return ast.dump(ast.parse(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def same_value(a: str, b: str) -> bool:
    r"""Whether two answers are one value: `1/2`, `0.5` and `\frac{1}{2}` are, 204 and 205 not."""
    return value(a) == value(b)


def extract_script(reply: str) -> str | None:
    """The script in a designer's reply: `<code>` tag, python fence, any fence, else raw text."""
    text = reply.rpartition("</think>")[2]
    if tagged := _unfenced(_last_block(text, "code")):
        return tagged
    blocks = fences(text)
    bodies = [body for language, body in blocks if language in ("python", "py")]
    bodies = bodies or [body for _, body in blocks] or [text.strip()]
    scripts = [body for body in bodies if _SCRIPT.search(body)] or (blocks and bodies)
    return scripts[-1] or None if scripts else None
