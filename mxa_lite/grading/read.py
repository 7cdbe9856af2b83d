r"""Reads math answers as text: one spelling, the parts of a list, units, numbers, work to do.

After `tidy` a sign is one character (`≤ ≥ ≠ ± ∓ · ∞ ∪ ∈ ° π ∅ ℝ`, `⦃⦄` for set braces), so that
nothing downstream meets two spellings. Standard library only, linear in the text.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import isqrt
from unicodedata import normalize

from mxa_lite.texts import answers

_SIGNS = {
    "≤": r"leq|le|leqslant", "≥": r"geq|ge|geqslant", "≠": r"neq|ne", "±": "pm", "∓": "mp",
    "·": "cdot|times|ast", "∞": "infty", "∪": "cup", "∈": "in", "π": "pi", "/": "div", "<": "lt",
    ">": "gt", "∅": "emptyset|varnothing", "°": "degree", "(": "langle", ")": "rangle",
    "…": "[lcd]?dots", ":": "colon", "|": "[lr]?vert|mid", "⦃": "lbrace", "⦄": "rbrace",
}  # fmt: skip
_COMMANDS = [(re.compile(rf"\\(?:{names})(?![a-zA-Z])"), sign) for sign, names in _SIGNS.items()]
_CHARACTERS = str.maketrans({
    "\u2212": "-", "\u2013": "-", "\u00d7": "·", "÷": "/", "√": r"\sqrt ", "⩽": "≤", "⩾": "≥",
    "\u2009": r"\,", "\u202f": r"\,", "\u00a0": r"\,", "~": r"\,", "∗": "·", "⋅": "·",
    "\u2216": r"\setminus ",
    **{sign: r"\frac{{{}}}{{{}}}".format(*normalize("NFKC", sign).split("\u2044"))
       for sign in "¼½¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"},
})  # fmt: skip
_RAISED = re.compile("([⁰¹²³⁴-⁹⁻ⁿ]+)|[₀-₉]+")
_CROSS = re.compile(r"(\\(?:vec|overrightarrow|mathbf)\s*\{?[a-zA-Z]+\}?\s*)\\times(?![a-zA-Z])")
_TEXT = re.compile(
    r"\\(?:text(?:rm|bf|it|normal|sf|tt)?|math(?:rm|bf|it|sf|tt|normal)|[mf]box|boldsymbol|bm"
    r"|operatorname|underline)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_SIZES = re.compile(
    r"\\(?:text)?color\s*\{\w+\}|\\(?:left|right)\s*\.|\\(?:left|right|[bB]igg?[lrm]?|displaystyle"
    r"|textstyle|limits|[lL]arge|LARGE|rm|bf)(?![a-zA-Z])"
)
_OVER = re.compile(r"\{([^{}]*)\\(over|choose)(?![a-zA-Z])([^{}]*)\}")
_ROW_SPACE = re.compile(r"(\\\\)\s*\[-?[\d.]+ ?[a-z]{2}\]")  # 1 \\[4pt] 2
_SPACING = re.compile(r"(?<!\\)\\[,;:!> ]|\\q?quad(?![a-zA-Z])|(?<!\\)\\[()\[\]]")
_GROUPS = re.compile(
    r"(?<![\d.,])\d{1,3}(?:(?:\\[,;: ]|,\\!|\{\\?,(?:\\!)?\}|\\!,)\s*\d{3})+(?!,?\d|\\[,;: !]\s*\d)"
)
_PLAIN = re.compile(r"(?<![\\a-zA-Z])(sqrt|pi|(?:arc)?(?:sin|cos|tan)|log|ln|exp)(?![a-zA-Z])")
_MATRIX = r"\\begin\{(?:[pb]?matrix|array)\}(?:\{[lcr|]*\})?(.*?)\\end\{(?:[pb]?matrix|array)\}"
_MATRICES = re.compile(rf"[(\[]\s*{_MATRIX}\s*[)\]]|{_MATRIX}", re.S)
_SYSTEM = re.compile(r"\\begin\{(cases|aligned)\}((?:(?!\\begin)[^&])*?)\\end\{\1\}")  # no function
_CASES = re.compile(rf"⦃\s*{_MATRIX}", re.S)
_LINES = re.compile(r"\s*(?:\\\\|\n)\s*")
_MIXED = re.compile(r"(-?)(\d+)(?:\s+(\d+)/(\d+)|\s*\\frac\{(\d+)\}\{(\d+)\})")
_REPEATING = re.compile(r"(-?)(\d*)\.(\d*)\\(?:overline|bar|dot) ?\{?(\d+)\}?")
_BARE = re.compile(r"\\frac\s*(?:(\d)|(\{[^{}]*\}))\s*(?:(\d)|(\{[^{}]*\}))")
_DIVISION = re.compile(r"/\s*\(?-?([\d.]+)\)?$|\\frac\{[^{}]*\}\{-?([\d.]+)\}$")
_ANGLED = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)")  # \sin 30° is no number of degrees
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")
_UNIT = re.compile(
    r"(.*[\d})π])(?:\s*((?:[ckm]m|(?<!π)(?<!π )(?:kg|mg|m[lL]|ft|in|k?m ?/ ?[hs]|lbs?|oz|hrs?|min"
    r"|[mk]ph|yd|mi|[apAP][mM]))(?: ?(?:per|/) ?[a-z]+)?)|\s+((?<!π )[mgsL]|(?:sq\.? )?[a-zA-Z]{3,}"
    r"(?:[ /][a-zA-Z]+){0,3}))(?:\s*\^\{?([23])\}?)?\.?"
)
_UNITS = {"centimeter": "cm", "meter": "m", "kilometer": "km", "inch": "in", "foot": "ft",
          "feet": "ft", "mile": "mi", "hour": "hr", "h": "hr", "minute": "min", "second": "s",
          "gram": "g", "kilogram": "kg", "liter": "l", "mph": "mi/hr", "kph": "km/hr"}  # fmt: skip
_POWERS = {"square": "2", "sq": "2", "sq.": "2", "cubic": "3"}
NO_UNIT = re.compile(  # words behind a number that make it another number
    r"\b([a-z]+illion|thousand|hundred|dozen|score|squared|cubed|factorial|choose|mod|times|plus"
    r"|percent|(?:(?:el|s)even|eigh|nin|twelf|[a-z]+teen|[a-z]+tie)th|divided|multiplied|raised"
    r"|added|(?:in|de)creased|when|where|if|modulo|minus|over|and|or|half|halves"
    r"|third|fourth|quarter|fifth|sixth|tenth|hundredth|thousandth"
    r"|less|more|than|not|off|pi|sqrt|point|negative|ten|tens|teen|twenty|one|two|three|four|five"
    r"|six|seven|eight|nine|zero|twice|double|triple|root|cube|grand|lakh|crore|wrong|false"
    r"|incorrect|except|unless|maybe|perhaps|about|around|roughly|approximately|almost|nearly)s?\b"
)

NAME = re.compile(  # what an answer may be called: `x`, `a_{10}`, `f'(2)`, `\\angle A`, `|AB|`
    r"(?:m?\\(?:angle|sin|cos|tan|vec|bar|hat|overline|triangle) ?){0,2}"
    r"[({]?(?:[a-zA-Z]|\\[a-zA-Z]+|[A-Z]{2,3}|[A-Za-z][a-z]{2,}(?: [A-Za-z]+){0,3})[)}]?'*"
    r"(?:_(?:\w|\\[a-zA-Z]+|\{[^{}]*\}))?(?:(?:\^\{-1\})?\([^()=]*\))?"
    r"|\|(?:[zw]|[A-Z]{1,2}|\\vec ?\{\w+\})\||[a-z](?::[a-z])+|\[[A-Z]{3,4}\]"
)

_UNDONE = {  # work that is left to do; N is a whole number, Q another
    "sum": r"(?:^|[=(+\-{,])-?[NQ][+-][NQ](?=$|[+\-)},])",
    "product": r"(?<![\^_])[NQ](?:π|\\sqrt\{?N\}?)?(?:·-?[NQ](?!\^)|·?\([^()a-zA-MOPR-Z]*\))"
    r"|\([^()a-zA-MOPR-Z]*\)·?(?:[NQ](?!\^)|\([^()a-zA-MOPR-Z]*\))",
    "quotient": r"(?<!\^)[NQ]/[NQ]",
    "power": r"(?:[NQ]|\((?:[NQi+\-·π{}]|\\sqrt)+\))\^(?:N|\{-?N\})",
    "factorial": r"(?:N|\([^()a-zA-MOPR-Z]*\))!",
    "function": r"\\(?:a?(?:rc)?(?:sin|cos|tan)|binom|log|ln|exp|max|min|gcd|lcm)(?:\^N|_N|_\{N\})?"
    r"(?:[{( -]|\\frac\{)*[NQπ](?![a-zA-Z({\\])",
    "operator": r"\\(?:sum|prod|int|lim)",
}
_UNDONE_KINDS = [(kind, re.compile(pattern)) for kind, pattern in _UNDONE.items()]
_FRACTIONS = re.compile(r"\\frac\{-?\d+\}\{\d+\}|(?<![\w^_/])\d+/\d+(?![\d/])|\d*\.\d+")
_LIKE = re.compile(r"(?<![a-zA-Z)}])(\\sqrt\{?\d+\}?|π)[+-]\d+\1(?![\d^])")  # 16π-4π is 12π
_ROOT = re.compile(r"\\sqrt(?:\[(\d)\])?\s*(?:\{-?(\d+)\}|(\d))")


def tidy(text: str) -> str:
    """One spelling: no math delimiters, `\\text`, sizes or spacing; a sign is one character."""
    text = _RAISED.sub(lambda m: f"{'^' if m[1] else '_'}{{{normalize('NFKC', m[0])}}}", text)
    text = _CROSS.sub(lambda m: f"{m[1]}\u2a2f", text)  # of vectors: no product of numbers
    text = _SIZES.sub(" ", text.translate(_CHARACTERS)).replace("overrightarrow", "vec")
    text = re.sub(r"(?<!\\)\$([^$]+)(?<!\\)\$", r"\1", text)
    text = _GROUPS.sub(lambda match: re.sub(r"\D", "", match[0]), text)
    text = text.replace("{,}", ",").replace(",\\!", ",")
    for _ in range(3):  # one inside another
        text = _TEXT.sub(r" \1 ", text)
    text = re.sub(r"\\(?:mathbb\s*\{?R\}?|R(?![a-zA-Z]))|\ball real numbers\b", "ℝ", text)
    text = re.sub(r"\b([apAP])\.\s?([mM])\b\.?", r"\1\2", _ROW_SPACE.sub(r"\1", text))
    text = _OVER.sub(r"\\\2{\1}{\3}", text).replace(r"\choose", r"\binom")
    text = re.sub(r"\^\s*\{?\s*(?:\\circ|°)\s*\}?", "°", text)
    for command, sign in _COMMANDS:
        text = command.sub(sign, text)
    text = text.replace("**", "^").replace("<=", "≤").replace(">=", "≥").replace("!=", "≠")
    text = re.sub(r"\\(?:[dtc]frac|over)(?![a-zA-Z])", r"\\frac", text.replace(r"\{", "⦃"))
    text = text.replace(r"\}", "⦄").replace(r"\%", "%").replace("*", "·").replace("dbinom", "binom")
    text = _CASES.sub(r"\\begin{cases}\1\\end{cases}", text.replace("smallmatrix", "matrix"))
    text = _MATRICES.sub(
        lambda match: rf"\begin{{matrix}}{match[1] or match[2] or ''}\end{{matrix}}", text
    )
    text = _SYSTEM.sub(r"\2", re.sub(r"(?:\\\\\s*)?&\s*=", "=", text))
    text = re.sub(r",?\s?&\s*(?:(?:if|for|when)\s)?", " & ", text)  # of a function by cases
    text = re.sub(r"⦃\s*⦄", "∅", text)
    text = re.sub(r"⦃\s*\w+\s*(?:∈\s*ℝ\s*)?(?:\||\\mid|:)([^⦃⦄|]*)⦄", r"\1", text)
    if r"\begin" not in text:
        text = "; ".join(line for line in _LINES.split(text.strip()) if line)
    text = re.sub(r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", _SPACING.sub(" ", text))
    text = _PLAIN.sub(lambda match: "π" if match[1] == "pi" else rf"\{match[1]} ", text)
    text = re.sub(r"\s*([=<>≤≥≠])\s*", r" \1 ", " ".join(text.split()))
    text = _BARE.sub(lambda m: rf"\frac{m[2] or f'{{{m[1]}}}'}{m[4] or f'{{{m[3]}}}'}", text)
    text = text.strip().rstrip(".").strip()
    text = re.sub(r"\\(sin|cos|tan|cot)\s*\^\s*(?:-1|\{-1\})", r"\\arc\1 ", text)
    body = inside(text, "()")
    return body if body and len(parts(body, ",;")) == 1 else text


def flat(text: str) -> str:
    r"""A text without what does not change it: `a_{n}` and `a_n`, `f (x)` and `f(x)` are one."""
    text = re.sub(r"([_^])\s*\{\s*(\w|\\[a-zA-Z]+)\s*\}(?!\w)", r"\1\2", text)
    return re.sub(r"(?<![\w,]) +|(?<=,) +(?!\d)| +(?!\w)|(?<![\d,]) +(?=\d)", "", text)


def parts(text: str, separators: str) -> list[str]:
    """The parts of a text between separators that stand in no bracket and no matrix."""
    cuts, depth = [-1], 0
    for index, character in enumerate(text):
        if character in "([{⦃" or text.startswith(r"\begin", index):
            depth += 1
        elif character in ")]}⦄" or text.startswith(r"\end{", index):
            depth -= 1
        elif depth == 0 and character in separators:
            cuts.append(index)
    return [text[a + 1 : b].strip() for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def inside(text: str, brackets: str) -> str | None:
    """What stands between the first and the last character, where these are one pair of brackets.

    brackets: the two characters.
    """
    if len(text) < 2 or text[0] not in brackets[0::2] or text[-1] not in brackets[1::2]:
        return None
    depth = 0
    for index, character in enumerate(text):
        depth += (character in "([{⦃") - (character in ")]}⦄")
        if depth == 0 and index < len(text) - 1:
            return None
    return text[1:-1].strip()


def split_unit(text: str) -> tuple[str, str]:
    """An answer and its unit, "" without one; money, percent and degrees by sign or word."""
    if money := re.search(r"\\?([$€£¥¢])", text):
        return re.sub(r"\\?[$€£¥¢]|\s*\bdollars?$", "", text).strip(), money[1]
    if match := re.fullmatch(r"([^%]+?)\s*(?:%|\bper ?cent)", text):
        return match[1], "%"
    if match := re.fullmatch(r"([^°]+?)\s*(?:°|\bdegrees?)\s*([CF]?)(?:elsius|ahrenheit)?", text):
        return (text, "") if _ANGLED.search(text) else (match[1], f"degree {match[2]}".strip())
    if match := re.fullmatch(r"\(?([\dA-F]+)\)?\s?_\s?\{?(\d+)\}?", text):
        return match[1], f"base {match[2]}"
    match = _UNIT.fullmatch(text)
    if not match or NO_UNIT.search(unit := (match[2] or match[3]).lower()):
        return text, ""
    unit = re.sub(r"(?<=ch)es\b|(?<=[a-z]{2})s\b| (?=/)|(?<=/) ", "", unit.replace(" per ", "/"))
    unit = re.sub(r"[a-z]+", lambda word: _UNITS.get(word[0], word[0]), unit)
    power, _, of = unit.rpartition(" ")
    return match[1].strip(), of + _POWERS[power] if power in _POWERS else unit + (match[4] or "")


def number(text: str) -> Fraction | None:
    """The exact value of a plain, mixed or repeating number, None for anything else."""
    if mixed := _MIXED.fullmatch(text):
        sign, whole, *rest = mixed.groups()
        over, under = (int(digits) for digits in rest if digits)
        return (-1 if sign else 1) * (int(whole) + Fraction(over, under)) if under else None
    if repeating := _REPEATING.fullmatch(text):
        sign, whole, once, again = repeating.groups()
        over = int(f"{whole}{once}{again}") - int(f"{whole}{once}" or "0")
        return (-1 if sign else 1) * Fraction(over, int("9" * len(again) + "0" * len(once)))
    text = inside(text, "{}") or text
    value = answers.value(text) if not re.search(r", |[a-zA-Z]\s*=|--|-\s*\(", text) else ""
    return value if isinstance(value, Fraction) else None


def denominator(text: str) -> int | None:
    """What a number's text divides by, 0 where it divides decimals; None where by nothing."""
    written = _DIVISION.search(text)
    return (0 if "." in text else int(written[1] or written[2])) if written else None


def wordy(text: str) -> bool:
    """Whether a text holds words, other than in commands."""
    return bool(_WORD.search(re.sub(r"\\(?:begin|end)\{\w+\}|_\{[^{}]*\}", " ", text)))


def left_to_do(text: str) -> set[str]:
    """The kinds of work on plain numbers that an expression leaves to its reader."""
    roots = {
        "root"
        for power, group, digit in _ROOT.findall(text)
        if power in ("", "2") and isqrt(int(group or digit)) ** 2 == int(group or digit)
    }
    text = flat(text)
    values = [
        number(part) or Fraction(1, 2) for part in _FRACTIONS.findall(text) if "." not in part
    ]
    whole = {"quotient" for value in values if value.denominator == 1}  # 4/2 is 2
    like = {"sum"} if _LIKE.search(text) else set()
    text = re.sub(r"\d+", "N", _FRACTIONS.sub("Q", text))
    return roots | whole | like | {kind for kind, pattern in _UNDONE_KINDS if pattern.search(text)}
