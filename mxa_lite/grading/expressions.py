r"""Whether two expressions are equal: read by a grammar of its own, proven by SymPy.

The grammar takes every character or refuses the text, so that nothing of an answer is passed over,
and it knows no letter as a constant but `e`, `i` and `π`. Equal means proven equal: a difference
that SymPy cannot show to be zero is a difference. Runs in the worker process.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import sympy

from mxa_lite.grading.read import flat, parts
from mxa_lite.grading.worker import ODD_TEXT

_MOST = 10_000  # of an exponent or under a factorial: beyond, numbers would not fit in memory
_DIGITS = 60  # to which unlike values are told apart before a proof is tried
_TOKENS = re.compile(
    r"\s*([fgh]\^\{?-1\}?(?= ?\()|\d*\.?\d+|\\begin\{matrix\}.*?\\end\{matrix\}"
    r"|\\(?:vec|hat|bar|overline|tilde)\s*\{[^{}]*\}|\\[a-zA-Z]+|[a-zA-Zπ∞]'*|!(?!!)"
    r"|[-+·/^°%(){}\[\]|_,])"
)
_APPLIED = re.compile(r"[fghFGHPQ]|\\(?:(?:var)?phi|sigma|Gamma|zeta)")  # f(x+1) is no product
_DERIVATIVE = re.compile(r"\\frac\{d[^{}]*\}\{d ?[a-zA-Z]")
_GREEK = re.compile(
    r"\\(?:var)?(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho"
    r"|sigma|tau|upsilon|phi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Phi|Psi|Omega|ell)"
)
_PLAIN = ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "exp")
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    **{name: getattr(sympy, name) for name in _PLAIN},
    **{f"arc{name}": getattr(sympy, f"a{name}") for name in ("sin", "cos", "tan", "cot")},
    "ln": sympy.log,
    "log": lambda value: sympy.log(value) / sympy.Symbol("of some base", positive=True),
    "lg": lambda value: sympy.log(value) / sympy.log(10),
}

_ROUNDED = {r"\lfloor": (sympy.floor, r"\rfloor"), r"\lceil": (sympy.ceiling, r"\rceil")}


class Unread(ValueError):
    """A text that is no expression of this grammar."""


class _Reader:
    """Reads one expression, left to right: sum, product, power, atom."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        end = 0
        while match := _TOKENS.match(text, end):
            self.tokens.append(match[1])
            end = match.end()
        if text[end:].strip() or _DERIVATIVE.search(text):
            raise Unread(text)
        self.at = 0

    def whole(self) -> Any:
        value = self.sum()
        if self.at < len(self.tokens) or (
            "∞" in self.tokens and len(self.tokens) > 1 + (self.tokens[0] in "+-")
        ):
            raise Unread  # there is no reckoning with infinity
        return value

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def next(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise Unread
        self.at += 1
        return token

    def took(self, *choices: str) -> str:
        return self.next() if self.peek() in choices and self.peek() else ""

    def sum(self) -> Any:
        value = -self.product() if self.took("-", "+") == "-" else self.product()
        while sign := self.took("+", "-"):
            value = value + self.product() if sign == "+" else value - self.product()
        return value

    def product(self) -> Any:
        value, divided = self.power(), False
        while token := self.peek():
            if self.took("·"):
                value, divided = _times(value, self.signed()), False
            elif self.took("/"):
                value, divided = value / _divisor(self.signed()), True
            elif self.starts(token) and not divided and not token[0].isdigit():
                mixed = token == r"\frac" and self.tokens[self.at - 1].isdigit()
                if mixed:  # 2\frac12 is a sum or a product
                    raise Unread
                value = _times(value, self.power())
            elif self.starts(token):
                raise Unread  # 1/2x is this or that, 3 4 is nothing
            else:
                break
        return value

    def starts(self, token: str) -> bool:
        return bool(re.match(r"[\w\\π∞({.]", token)) and token not in ("_", r"\rfloor", r"\rceil")

    def signed(self) -> Any:
        return -self.power() if self.took("-") else self.power()

    def power(self) -> Any:
        value = self.atom()
        while token := self.took("!", "^", "°", "%"):
            if token == "!":
                if not (value.is_Integer and 0 <= value <= _MOST) and not value.free_symbols:
                    raise Unread
                value = sympy.factorial(value)
            elif token == "^":
                exponent = self.group(signed=True)
                if not exponent.free_symbols and abs(exponent) > _MOST:
                    raise Unread
                value = value**exponent
            else:
                value = value * (sympy.pi / 180 if token == "°" else sympy.Rational(1, 100))
        return value

    def group(self, signed: bool = False) -> Any:
        """An argument: `{...}`, or one token, of `\frac12` one digit."""
        if signed and self.took("-"):
            return -self.group()
        if self.took("{"):
            value = self.sum()
            self.next("}")
            return value
        if not signed and re.fullmatch(r"\d\d+", self.peek()):
            token = self.tokens[self.at]
            self.tokens[self.at : self.at + 1] = [token[0], token[1:]]
        return self.atom()

    def atom(self) -> Any:
        token = self.next()
        if token[0].isdigit() or token[0] == ".":
            return sympy.Rational(token)
        if token in ("(", "{", "|", "["):
            if token == "[":
                raise Unread
            value = self.sum()
            self.next({"(": ")", "{": "}", "|": "|"}[token])
            return sympy.Abs(value) if token == "|" else value
        if token == "π":
            return sympy.pi
        if token == "∞":
            return sympy.oo
        if token.startswith(r"\begin"):
            rows = token[len(r"\begin{matrix}") : -len(r"\end{matrix}")].split(r"\\")
            return sympy.Matrix([[read(cell) for cell in parts(row, "&")] for row in rows])
        if token in (r"\frac", r"\binom"):
            above, below = self.group(), self.group()
            if token == r"\frac":
                return above / _divisor(below)
            numbers = [value for value in (above, below) if not value.free_symbols]
            if not all(value.is_Integer and 0 <= value <= _MOST for value in numbers):
                raise Unread
            return sympy.binomial(above, below)
        if token in _ROUNDED:
            apply, end = _ROUNDED[token]
            value = self.sum()
            self.next(end)
            return apply(value)
        if token == r"\sqrt":
            degree = sympy.Integer(2)
            if self.took("["):
                degree = self.sum()
                self.next("]")
            return _root(self.group(), degree)
        if token[1:] in _FUNCTIONS:
            return self.function(token[1:])
        if token[0].isalpha() or _GREEK.fullmatch(token) or token.endswith("}"):
            return self.letter(token)
        raise Unread

    def function(self, name: str) -> Any:
        apply, power = _FUNCTIONS[name], None
        if name == "log" and self.took("_"):
            base = self.group()
            apply = lambda value: sympy.log(value) / sympy.log(base)  # noqa: E731
        if self.took("^"):
            power = self.group(signed=True)
            if power.is_negative:
                raise Unread  # an inverse, or a reciprocal
        if self.peek() in ("(", "{", "|"):
            value = self.atom()
        else:  # \sin 2x\cos x is a product of two
            value = self.signed()
            while (token := self.peek()) and self.starts(token) and token[1:] not in _FUNCTIONS:
                if token == "(" or token[0].isdigit():
                    break
                value = value * self.power()
        return apply(value) if power is None else apply(value) ** power

    def letter(self, token: str) -> Any:
        name = flat(token)
        if self.took("_"):
            name += "_" + self.subscript()
        if name in ("e", "i"):
            return sympy.E if name == "e" else sympy.I
        if self.peek() == "(" and _APPLIED.match(name):
            self.next()
            values = [self.sum()]
            while self.took(","):
                values.append(self.sum())
            self.next(")")
            return sympy.Function(name)(*values)
        return sympy.Symbol(name, real=None if name[0] in "zw" else True)

    def subscript(self) -> str:
        if not self.took("{"):
            return self.next()
        tokens: list[str] = []
        while not self.took("}"):
            tokens.append(self.next())
        return "".join(tokens)


def _times(left: Any, right: Any) -> Any:
    if isinstance(left, sympy.MatrixBase) != isinstance(right, sympy.MatrixBase):
        matrix, factor = (left, right) if isinstance(left, sympy.MatrixBase) else (right, left)
        if matrix is left and factor.free_symbols:
            raise Unread  # a matrix times something that may be one
    return left * right


def _root(value: Any, degree: Any) -> Any:
    if value.is_negative and degree.is_Integer and degree % 2:
        return -((-value) ** (1 / degree))
    return value ** (1 / degree)


def _divisor(value: Any) -> Any:
    if value == 0:
        raise Unread
    return value


def holds(claim: Any) -> bool:
    """Whether a claim of `compare` is true; what cannot be read is not shown equal."""
    if isinstance(claim, bool):
        return claim
    kind, *rest = claim
    if kind == "all":
        return all(map(holds, rest))
    if kind == "match":  # two that equal a third are equal, so the first fitting one will do
        free = list(range(len(rest)))
        for row in rest:
            index = next((index for index in free if holds(row[index])), None)
            if index is None:
                return False
            free.remove(index)
        return True
    try:
        return (equal if kind == "same" else same_equation)(*rest)
    except ODD_TEXT:
        return False


@lru_cache(maxsize=512)
def read(text: str) -> Any:
    """The expression as SymPy's. Raises Unread, and what SymPy raises on nonsense."""
    return _Reader(text).whole()


def equal(gold: str, answer: str) -> bool:
    """Whether two expressions are proven to be equal for all values of their letters."""
    left, right = read(gold), read(answer)
    if isinstance(left, sympy.MatrixBase) or isinstance(right, sympy.MatrixBase):
        alike = isinstance(left, sympy.MatrixBase) and isinstance(right, sympy.MatrixBase)
        return alike and left.shape == right.shape and all(map(_zero, left, right))
    return _zero(left, right)


def _zero(first: Any, second: Any) -> bool:
    if first.has(sympy.nan, sympy.zoo, sympy.oo) or second.has(sympy.nan, sympy.zoo, sympy.oo):
        return first == second and not first.has(sympy.nan, sympy.zoo)
    if first == second:
        return True
    if first.is_Rational and second.is_Rational:
        return False
    if _differ(first, second):
        return False
    difference = sympy.expand_log(sympy.expand_func(sympy.expand(first - second)), factor=True)
    return bool(difference == 0 or sympy.simplify(difference) == 0 or difference.equals(0) is True)


def _differ(first: Any, second: Any) -> bool:
    """Whether two values are seen to be unlike, their letters being any numbers."""
    names = sorted(first.free_symbols | second.free_symbols, key=str)
    values = random.Random(0)
    point = {name: sympy.Rational(values.randint(11, 99), 37) for name in names}
    left, right = (sympy.N(value.subs(point), _DIGITS) for value in (first, second))
    if not (left.is_number and right.is_number):
        return False
    size = max(abs(left), abs(right))
    return bool(size != 0 and abs(left - right) > size * sympy.Float(10) ** (10 - _DIGITS))


def same_equation(gold: str, answer: str) -> bool:
    """Whether one equation is the other, its sides moved or multiplied by a number."""
    (left, right), (other_left, other_right) = (
        [read(side) for side in parts(text, "=")] for text in (gold, answer)
    )
    gap, other_gap = sympy.expand(left - right), sympy.expand(other_left - other_right)
    if not gap.free_symbols or not other_gap.free_symbols:  # a statement about numbers
        return _zero(left, other_left) and _zero(right, other_right)
    ratio = sympy.simplify(gap / other_gap)
    return bool(ratio.is_number and ratio.is_finite and ratio != 0)


equal(r"\sqrt{2}", "x")  # imports what SymPy puts off, while that is still allowed
