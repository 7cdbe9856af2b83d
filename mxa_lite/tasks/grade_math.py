r"""Whether a math answer is the gold answer: exact, without any tolerance.

Numbers are compared here, at once, as fractions. What is left (roots, sets, intervals, equations)
goes to math-verify in a worker process, with decimals rewritten as fractions, because it rounds
them; only shapes it reads right get there: it takes `3 4` for 7, `5m` for 5 and `4=5` for 5.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import re
import resource
import select
import signal
import subprocess
import sys
from fractions import Fraction
from typing import Any

from mxa_lite.errors import RunError
from mxa_lite.mas import answers

LONGEST = 500  # characters of an answer that is compared
_MEMORY = 4 << 30  # bytes a worker may map
_ALONE = 60  # seconds that a comparison may go on when the trainer was killed

# fmt: off
_GLYPHS = {
    "\u2212": "-", "\u00d7": r"\times ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty ",
    "°": r"^\circ", "√": r"\sqrt ", "≤": r"\le ", "≥": r"\ge ", "²": "^2", "³": "^3",
    "½": r"\frac{1}{2}", "{,}": ",", ",\\!": ",",
}
# fmt: on
_SAID = re.compile(r"(?:(?:so|thus|therefore),? )?(?:the )?(?:final )?answer(?: is:?|:)(.+)", re.I)
_TEXT = re.compile(r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"\\(?:left|right|displaystyle|q?quad)(?![a-zA-Z])|(?<!\\)\\[,;:!> ()\[\]]|~")
_MIXED = re.compile(r"(-?)(\d+)(?:\s+(\d+)/(\d+)|\s*\\[dt]?frac\{(\d+)\}\{(\d+)\})")
_WRITTEN = re.compile(  # the denominator of a fraction
    r"/\s*\(?-?(\d+)|\\[dt]?frac\s*(?:\{[^{}]*\}|\d)\s*(?:\{-?(\d+)\}|(\d))"
)
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\{(\d+)\}")
_DECIMAL = re.compile(r"(?<![\d,.])(\d*)\.(\d+)")
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")
_FUNCTION = re.compile(r"(?<![\\a-zA-Z])(sqrt|pi|sin|cos|tan|log|ln|max|min)(?![a-zA-Z])")
_NAMES = re.compile(_FUNCTION.pattern + r"|\\(?:begin|end)\{\w+\}")
_AND = re.compile(r"\s*,?\s*\band\b\s*")
_SPACED = re.compile(r"(?<![_\d])\d+\s+\d")
_EACH = re.compile(r"(?<![a-zA-Z])([a-zA-Z])\s*=(?!=)\s*")
_THOUSANDS = re.compile(r"(?<![\d,])(\d{1,3}(?:,\d{3})+)(?![\d,])")
_LETTER = re.compile(r"\(?([A-Za-z])\)?\.?")
_OPTION = re.compile(r"\(?([A-Ja-j])(?:[).:](.*))?", re.S)
_SECOND = re.compile(  # another option
    r"(?<![a-zA-Z(])\(?[A-J](?:\)|:\s)|\b(?:or|and)\s+\(?[A-J]\b"
)
_CUT_OFF = re.compile(r"\.\d+\s*(?:\.\.|…|\\[lcd]?dots(?![a-zA-Z]))")  # 0.333... is not 0.333
_SYMBOL = re.compile(r"\\[a-zA-Z]+|[a-zA-Z]")
_EQUALS = re.compile(r"(?<![\\<>!:=])=(?!=)")
_RELATION = re.compile(r"[<>=]|\\(?:in|[lg]eq?)(?![a-zA-Z])")
_INTERVAL = re.compile(r"([\[(])[^()\[\]]*([\])])")
_LEFT_SIDE = re.compile(r"\\?[a-zA-Z]+'?(?:_\{?\w+\}?)?(?:\s*\([\w, ]*\))?")
_UNIT = re.compile(
    r"(.*[\d})])(?:\s*(cm|mm|km|kg|mg|m[lL]|ft|in|k?m/[hs]|lbs?|oz|hrs?|min|[mk]ph|yd|mi|[apAP][mM])"
    r"|\s+([mgsL]|[a-zA-Z]{3,}(?:[ /][a-zA-Z]+){0,3}))(?:\s*\^\{?([23])\}?)?\.?"
)
_NO_UNIT = re.compile(  # words behind a number that make it another number
    r"\b([bmtr]+illion|thousand|hundred|dozen|score|squared|cubed|factorial|choose|mod|times|plus"
    r"|minus|over|and|or|half|halves|third|fourth|quarter|fifth|sixth|tenth|hundredth|thousandth"
    r"|less|more|than|not|off|pi|sqrt|point|negative|ten|tens|teen|twenty|one|two|three|four|five"
    r"|six|seven|eight|nine|zero|twice|double|triple|root|cube|grand|lakh|crore|wrong|false"
    r"|incorrect|except|unless|maybe|perhaps|about|around|roughly|approximately|almost|nearly)s?\b"
)
_SIGNS = {"%", "$", "degree"}  # units whose sign a bare answer may leave away


def final(text: str) -> str:
    """What of a reply is graded: its last box, else what follows `####`, else its text."""
    text = answers.extract(text)
    if "####" in text:
        text = text.rpartition("####")[2].strip().partition("\n")[0]
    text = text.strip("* \n`")
    said = _SAID.fullmatch(text)
    return said[1].strip("* ") if said else text


def _tidy(text: str) -> str:
    """One spelling: no math delimiters, no `\text`, no spacing commands, ASCII."""
    for glyph, plain in _GLYPHS.items():
        text = text.replace(glyph, plain)
    text = re.sub(r"(?<!\\)\$([^$]+)(?<!\\)\$", r"\1", text)
    text = _SPACING.sub(" ", _TEXT.sub(r" \1 ", text))
    return " ".join(text.split()).rstrip(".").strip()


def split_unit(text: str) -> tuple[str, str]:
    """An answer and its unit, "" without one; money, percent and degrees by sign or word."""
    if re.search(r"\\?\$", text):
        return re.sub(r"\\?\$|\s*\bdollars?$", "", text).strip(), "$"
    if match := re.fullmatch(r"(.+?)\s*(?:\\?%|\bper ?cent)", text):
        return match[1], "%"
    if match := re.fullmatch(r"(.+?)\s*(?:\^\s?\{?\s?\\circ\s?\}?|\bdegrees?)", text):
        return match[1], "degree"
    if match := re.fullmatch(r"([\dA-F]+)\s?_\s?\{?(\d+)\}?", text):
        return match[1], f"base {match[2]}"
    match = _UNIT.fullmatch(text)
    if not match or _NO_UNIT.search(name := (match[2] or match[3]).lower()):
        return text, ""
    return match[1].strip(), re.sub(r"(?<=ch)es\b|s\b", "", name) + (match[4] or "")


def number(text: str) -> Fraction | None:
    """The exact value of a plain or mixed number, None for anything else."""
    if mixed := _MIXED.fullmatch(text):
        sign, whole, *parts = mixed.groups()
        over, under = (int(part) for part in parts if part)
        return (-1 if sign else 1) * (int(whole) + Fraction(over, under)) if under else None
    value = answers.value(text) if ", " not in text else ""
    return value if isinstance(value, Fraction) else None


def finished(answer: str, gold: str) -> bool:
    r"""Whether a number's text leaves no division to do: `\frac12`, not `48/2` where 24 is asked.

    A fraction that could be cancelled counts only where the gold is a fraction too.
    """
    written, value = _WRITTEN.search(answer), number(answer)
    if written is None or value is None or _WRITTEN.search(gold):
        return value is not None
    return value.denominator == int(next(part for part in written.groups() if part))


def _repeating(match: re.Match[str]) -> str:
    whole, once, again = match.groups()
    over = int(f"{whole}{once}{again}") - int(f"{whole}{once}" or "0")
    return rf"{{\frac{{{over}}}{{{'9' * len(again)}{'0' * len(once)}}}}}"


def _latex(text: str) -> str:
    """The text as math-verify should read it; decimals become fractions, so nothing is rounded."""
    text = re.sub(r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text.replace("**", "^"))
    text = _FUNCTION.sub(r"\\\1 ", text)
    if not re.search(r"[(\[{]", text):
        text = _THOUSANDS.sub(lambda m: m[1].replace(",", ""), text)
    text = _REPEATING.sub(_repeating, text)
    return _DECIMAL.sub(lambda m: rf"{{\frac{{{int(m[1] + m[2])}}}{{{10 ** len(m[2])}}}}}", text)


def _cased(gold: str, answer: str) -> tuple[str, str]:
    r"""`R` and `r`, `\Delta` and `\delta` as different letters: math-verify takes them for one."""
    used = {*_SYMBOL.findall(gold), *_SYMBOL.findall(answer)}
    free = iter(sorted({*"abcfghjklmnopqrstuvwxyz"} - {name.lower() for name in used}))
    capital = {n: next(free, n) for n in sorted(used) if n != n.lower() and n.lower() in used}
    one, other = (_SYMBOL.sub(lambda m: capital.get(m[0], m[0]), text) for text in (gold, answer))
    return one, other


def compare(
    gold: str, answer: str, choices: bool = False, undone: bool = False
) -> bool | list[tuple[str, str]]:
    """True or False where that is plain, else pairs of LaTeX that must all be equal.

    gold, answer: whole texts; the last box counts. choices: the question is multiple choice, so
    that `(B)`, `b` and `B) 7` name the option B; in any other question a letter is a letter.
    undone: the answer may be a sum that is not worked out, as before the last `=` of `4+3=7`.
    """
    gold, answer = final(gold), final(answer)
    cut = bool(_CUT_OFF.search(answer)) and not _CUT_OFF.search(gold)
    gold, answer = _tidy(gold), _tidy(answer)
    broken = answer.count("{") != answer.count("}") or cut  # a reply, or a number, that was cut off
    if not gold or not answer or broken or max(len(gold), len(answer)) > LONGEST:
        return False
    if choices and (right := _OPTION.fullmatch(gold)):
        given = _OPTION.fullmatch(answer)
        if given is None or _SECOND.search(given[2] or ""):
            return False
        return given[1].upper() == right[1].upper()
    if (one := _LETTER.fullmatch(gold)) and (other := _LETTER.fullmatch(answer)):
        return one[1] == other[1]
    if gold == answer:
        return True
    sides = [_LEFT_SIDE.fullmatch(text.partition("=")[0].strip()) for text in (gold, answer)]
    if "=" in gold and "=" in answer and sides[0] and sides[1] and sides[0][0] != sides[1][0]:
        return False
    gold, gold_unit = split_unit(gold)
    answer, unit = split_unit(answer)
    alike = gold_unit == unit or {gold_unit, unit} == {"$", "dollar"}
    if gold_unit and not alike and (unit or gold_unit not in _SIGNS):
        return False
    if not gold_unit and unit.startswith("base ") and unit != "base 10":
        return False  # other digits than they look
    wanted, got = number(gold), number(answer)
    if wanted is not None and not undone:
        if got is None and not _EQUALS.search(answer) and not _REPEATING.search(answer):
            return False
        if got is not None and not finished(answer, gold):
            return False
    if wanted is None or got is None:
        return _shapes(gold, answer, [wanted is not None, got is not None])
    if (gold_unit == "%") != (unit == "%"):  # half is 50 %, and 50 where percents are asked
        return got in ((wanted, wanted / 100) if gold_unit else (wanted, wanted * 100))
    return got == wanted


def _shapes(gold: str, answer: str, numeric: list[bool]) -> bool | list[tuple[str, str]]:
    """Settles what math-verify would misread; the rest is for it."""
    gold, answer = (_AND.sub(", ", text) for text in (gold, answer))
    plain = [_NAMES.sub(" ", text) for text in (gold, answer)]
    if any(_WORD.search(text) for text in plain) or ":" in gold + answer:
        return gold.replace(" ", "").casefold() == answer.replace(" ", "").casefold()
    if any(_SPACED.search(text) for text in plain):
        return False
    if not _EQUALS.search(gold) and _EQUALS.search(answer):
        if "," in answer and len({*_EACH.findall(answer)}) == 1:  # `x=2, x=3`
            return compare(gold, _EACH.sub("", answer))
        sides = [part.strip() for part in _EQUALS.split(answer)]
        sides = sides[bool(_LEFT_SIDE.fullmatch(sides[0])) :]
        found = [compare(gold, side, undone=side is not sides[-1]) for side in sides]
        if False in found:
            return False
        return [pair for pairs in found if isinstance(pairs, list) for pair in pairs] or True
    bare = [re.sub(r"\\[a-zA-Z]+|(?<![a-zA-Z])[ei](?![a-zA-Z])", "", text) for text in plain]
    letters = [bool(re.search("[a-zA-Z]", text)) for text in bare]
    if letters[0] != letters[1] and not _RELATION.search(gold + answer):
        return False
    if "," in gold and "," in answer:
        ends = [_INTERVAL.fullmatch(text) for text in (gold, answer)]
        if ends[0] and ends[1] and ends[0].groups() != ends[1].groups():
            return False  # math-verify takes `[0,\infty]` for `[0,\infty)`
        kinds = ["(" if text[0] in "([" else text[0] == "\\" for text in (gold, answer)]
        if any(numeric) or {*kinds} == {"(", True}:
            return False  # a pair has an order, a set has none
        if kinds[0] != kinds[1] and "(" in kinds:  # a pair without its brackets
            gold, answer = (f"({text.strip('()')})" for text in (gold, answer))
    pair = _cased(_latex(gold), _latex(answer))
    if pair[0].count(",") != pair[1].count(",") and r"\pm" not in gold + answer:
        return False
    return [pair]


# What parsers and scorers throw at text they cannot read. Anything else ends the worker, which is
# "not shown equal" too and costs a restart.
ODD_TEXT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NameError,
    OSError,  # what the audit hook denies
    RuntimeError,  # recursion too
    SyntaxError,
    TypeError,
    ValueError,
)


class Worker:
    """One process that compares; replaced when it dies or runs out of time.

    module: what it imports beforehand, since afterwards an import may need more than it may do.
    """

    def __init__(self, seconds: float, module: str = "math_verify") -> None:
        self.seconds, self.module = seconds, module
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: dict[str, Any]) -> float:
        """1.0 if it holds, 0.0 if not or if it could not be told in time."""
        line = ""
        with contextlib.suppress(BrokenPipeError):
            process = self._process or self._started()
            assert process.stdin
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = self._read(self.seconds)
        if not line:
            self.close()
            return 0.0
        return float(json.loads(line))

    def _started(self) -> subprocess.Popen[str]:
        """A new process, ready: what its imports take is no answer's time.

        Raises RunError when it does not start, for then right answers would be unpaid in silence.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-B", "-m", "mxa_lite.tasks.grade_math", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the run, which ends this by closing stdin
        )
        if not self._read(60):
            self.close()
            raise RunError(f"the grader's worker ({self.module}) does not start")
        return self._process

    def _read(self, seconds: float) -> str:
        """The worker's next line, "" if none comes in time."""
        assert self._process and self._process.stdout
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return self._process.stdout.readline() if ready else ""

    def close(self) -> None:
        """Ends the process, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _equal(gold: str, answer: str) -> bool:
    from math_verify import LatexExtractionConfig, parse, verify

    def read(text: str) -> Any:
        boxed = [LatexExtractionConfig(boxed_match_priority=0)]
        return parse(f"\\boxed{{{text}}}", extraction_config=boxed, parsing_timeout=None)

    digits, precision = 15, 40
    return bool(verify(read(gold), read(answer), digits, precision, timeout_seconds=None))


def _deny(event: str, args: tuple[Any, ...]) -> None:
    """Audit hook: scorers and parsers see model text, so they may read files and nothing more."""
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    family = event.partition(".")[0]
    if writes or (
        family in ("os", "subprocess", "socket", "shutil", "ctypes", "fcntl")
        and event not in ("os.listdir", "os.scandir")
    ):
        raise PermissionError(event)


def main() -> None:
    """Says that it is ready, then answers one JSON line per JSON line, until stdin ends."""
    out, sys.stdout = sys.stdout, sys.stderr
    logging.disable(logging.CRITICAL)
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    memory = _MEMORY if most == resource.RLIM_INFINITY else min(_MEMORY, most)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    from mxa_lite.tasks import gym

    importlib.import_module(sys.argv[1])
    if sys.argv[1] == "math_verify":
        _equal("\\sqrt{2}", "x")  # which imports the rest
    sys.addaudithook(_deny)
    print(file=out, flush=True)
    for line in sys.stdin:
        signal.alarm(_ALONE)  # ends this process, should nobody be left to do it
        request = json.loads(line)
        try:
            if "gym" in request:
                value = gym.score(request["gym"], request["question"], request["answer"])
            else:
                value = float(all(_equal(*pair) for pair in request["pairs"]))
        except ODD_TEXT:  # not shown equal
            value = 0.0
        signal.alarm(0)
        print(json.dumps(value), file=out, flush=True)


if __name__ == "__main__":
    main()
