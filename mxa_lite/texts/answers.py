r"""Reads replies: boxes, blocks, scripts, and whether two answers are the same value.

Standard library only: it runs in the sandbox (votes, deliveries) and in the parent (answers, format
reward). Every function is linear in its text, since the text is a model's.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from fractions import Fraction
from itertools import islice

PYTHON = ("python", "python3", "py")  # languages of a fence
MAX_SCRIPT = 64_000  # characters; a longer script is none
_BRACES = re.compile(r"(\\boxed\s*\{)|\\[{}]|([{}])")
_LANGUAGE = re.compile(r"^\s*(?:from|import)\s+(?:workflow|mas)\b|\banswer\s*\(|\.run\s*\(", re.M)
# A line of its own; after the language may stand what some write there: ```python title="x"
_FENCE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})[ \t]*\{?([\w+-]*)[^`\n]*$", re.M)
_MARK = re.compile(_FENCE.pattern + r"|</?(?i:code|python)\b[^<>\n]*>", re.M)
_FIRST = re.compile(r"^(?:from [\w.]+ import\b|import \w|\w+ = Agent\w*\()", re.M)  # unfenced
_MARKS = 12  # that are tried as a script's begin, and as its end: half of these are the last
_HEAD, _TAIL = 200, 800
# What an instruction has in its box or delivery, and a reply that quotes it.
_PLACEHOLDER = re.compile(r"[\s.?_<>]*(?:(?:the|your|final|answer|result|value)[\s.?_<>]*)*", re.I)

# What is done to an answer before votes are counted, in this order.
_VOTE_STEPS = (
    # a fraction as a quotient: \frac{1}{2} and \dfrac12 are (1)/(2)
    (re.compile(r"\\[dt]?frac(?:\{([^{}]*)\}|(\d))(?:\{([^{}]*)\}|(\d))"), r"(\1\2)/(\3\4)"),
    # without layout: \left( is (, and $5$, 90^\circ, 5\, and "5." lose their signs
    (re.compile(r"\\left|\\right|\\[,;:! ()\[\]]|\\?\$|\^\{?\\circ\}?|\.$"), ""),
    # without spaces, but "3 4" is not 34
    (re.compile(r"(?<!\w)\s+|\s+(?![\w(])"), ""),
    # without the name of the unknown: x=5 is 5
    (re.compile(r"^[a-zA-Z]="), ""),
)
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")  # 1,234,567.5
_NUMBER = re.compile(r"([-+]?)\(?(-?(?:\d+\.?\d*|\.\d+))\)?(?:/\(?(-?\d+\.?\d*)\)?)?")


def last_boxed(text: str) -> str | None:
    r"""Content of the last complete `\boxed{}`, braces balanced; the inner one of two nested."""
    span: tuple[int, int] | None = None
    opened: list[int | None] = []  # where a box's content starts, None for a plain brace
    for match in _BRACES.finditer(text):
        if match[1]:
            opened.append(match.end())
        elif match[2] == "{":
            opened.append(None)
        elif match[2] and opened:
            start = opened.pop()
            if start is not None and (span is None or start > span[0]):
                span = (start, match.start())
    return text[span[0] : span[1]].strip() if span else None


def _last_block(text: str, tag: str) -> str | None:
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    return (text[start + len(tag) + 2 : end].strip() or None) if start >= 0 else None


def fences(text: str) -> list[tuple[str, str]]:
    """Fenced blocks as (language, body); one that is still open at the end counts.

    A fence is a line of its own, so that a program may hold one in a string; in a text whose
    fences do not stand so they are taken where they are.
    """
    parts = _FENCE.split(text)  # text, language, text, language, ...
    marks = len(parts) // 2
    if marks and (marks % 2 == 0 or marks == text.count("```")):
        pairs = zip(parts[1::4], parts[2::4], strict=True)
        return [(language.lower(), body.strip("\n").rstrip()) for language, body in pairs]
    blocks = []
    for block in text.split("```")[1::2]:
        language, newline, body = block.partition("\n")
        named = newline and re.fullmatch(r"[\w+-]*\s*", language)
        blocks.append((language.strip().lower(), body.rstrip()) if named else ("", block.strip()))
    return blocks


def _unfenced(block: str | None) -> str | None:
    """The last fenced block, of Python where one says so (what a program printed may follow)."""
    blocks = fences(block) if block else []
    programs = [body for language, body in blocks if language in PYTHON]
    bodies = programs or [body for _, body in blocks]
    return bodies[-1] if bodies else block


def last_solution(text: str) -> str | None:
    return _unfenced(_last_block(text, "solution"))


def delivery(text: str) -> str | None:
    """The last `<delivery>` block; none where it is empty or quoted from an instruction."""
    block = _last_block(text, "delivery")
    return None if _PLACEHOLDER.fullmatch(block or "") else block


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
    answer = last_boxed(text) if kind == "math" else last_solution(text)
    return not _PLACEHOLDER.fullmatch(answer or "")


def extract(text: str, kind: str = "math") -> str:
    """The answer of an answering message: last box or solution, else fence (code), else text."""
    if kind == "code":
        return last_solution(text) or _unfenced(text.strip()) or text.strip()
    answer = last_boxed(text)
    return text.strip() if answer is None else answer


def comparable(answer: str, kind: str = "math") -> Fraction | str:
    """What a vote counts: equal for equal answers."""
    return value(answer) if kind == "math" else program(answer)


def value(text: str) -> Fraction | str:
    """An answer as something hashable: an exact number where it is one, else normalised text."""
    plain = text.strip()
    for pattern, replacement in _VOTE_STEPS:
        plain = pattern.sub(replacement, plain)
    number = _NUMBER.fullmatch(plain.replace(",", "") if _GROUPED.fullmatch(plain) else plain)
    if number and len(plain) < 100 and (divisor := Fraction(number[3] or 1)):
        return Fraction(f"{number[1]}1") * Fraction(number[2]) / divisor
    return plain.lower() if plain.isalpha() else plain


def _parsed(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in a model's program
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def program(text: str) -> str:
    """A program without what does not change it: comments, blank lines, layout."""
    tree = _parsed(text)
    if tree is None:
        return "\n".join(line.strip() for line in text.splitlines() if line.strip())
    return ast.dump(tree)


def same_value(a: str, b: str) -> bool:
    r"""Whether two answers are one value: `1/2`, `0.5` and `\frac{1}{2}` are, 204 and 205 not."""
    return value(a) == value(b)


def extract_script(reply: str) -> str | None:
    """The script in a designer's reply: in its `<code>` tag, a fence, or the raw text.

    Of several candidates the last that parses and uses the language, else the last that a reader
    would take for one, so that its error can be told.
    """
    text = reply.rpartition("</think>")[2]
    # a script may hold that tag too, in a string of its own
    if scripts := _scripts(text) or [script for script in _scripts(reply) if "</think>" in script]:
        return scripts[-1]
    if last := _unfenced(_last_block(text, "code")):
        return last
    blocks = fences(text)
    bodies = [body for language, body in blocks if language in PYTHON]
    bodies = bodies or [body for _, body in blocks] or [text.strip()]
    likely = [body for body in bodies if _LANGUAGE.search(body)] or (bodies if blocks else [])
    return likely[-1] or None if likely else None


def _scripts(text: str) -> list[str]:
    """The scripts in a text, whole or between marks. A script may hold marks in its strings, so
    each of its possible ends is tried, and what lies within it is no script of its own."""
    if _is_script(text):
        return [text.strip()]
    marks = list(islice(_MARK.finditer(text), 999))
    ends = [mark.start() for mark in marks] + [len(text)]
    scripts, begin = [], 0
    while begin < min(len(marks), _MARKS):
        tried = range(begin + 1, len(ends))
        bodies = (
            (end, textwrap.dedent(text[marks[begin].end() : ends[end]]))  # as in a list's item
            for end in (*tried[: _MARKS // 2], *tried[_MARKS // 2 :][-_MARKS // 2 :])
        )
        begin, body = next(((end, b) for end, b in bodies if _is_script(b)), (begin, ""))
        scripts += [body.strip("\n").rstrip()] if body else []
        begin += 1
    if not marks and (first := _FIRST.search(text)):  # sentences stand before and after it
        ends = [len(text), *(blank.start() for blank in re.finditer(r"\n[ \t]*\n", text))]
        parts = (text[first.start() : end].strip() for end in [ends[0], *ends[:0:-1][:_MARKS]])
        scripts += islice(filter(_is_script, parts), 1)
    return scripts


def _is_script(text: str) -> bool:
    return len(text) <= MAX_SCRIPT and bool(_LANGUAGE.search(text)) and _parsed(text) is not None
