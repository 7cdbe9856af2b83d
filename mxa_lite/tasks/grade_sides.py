"""The two programs that grade by asserts, as text: what both share, the probe and the judge.

`outcome_of` alone catches what code that is not ours raises: the answer's, a test's, a setup's. It
becomes a value named after the exception, or the reason why a test is not passed.
"""

# Values as the text of a literal, or of a call that `decode` knows; independent of overridden
# methods.
SHARED = r"""
import ast, builtins, collections, datetime, decimal, enum, fractions, io, itertools, json, random
import sys, types, zlib
sys.set_int_max_str_digits(0)
class Stop(BaseException):  # ends a test; no Exception, so that the test's own handlers let it pass
    pass
class NotPlain(Stop):  # a value cannot be sent
    pass
def outcome_of(call, *arguments):  # what it returns and None, or None and what it raised
    try:
        return call(*arguments), None
    except (Exception, Stop) as error:  # code of an answer or a test may raise anything
        return None, error
def reason(error):  # without its __str__, which may be the answer's code or ask for it
    text = next((text for text in error.args if type(text) is str), "")
    return f"{type(error).__name__}: {text}"[:200]
def zone(v):
    return v.tzinfo and datetime.timezone(v.utcoffset())
BUILT = {
    "_Decimal": (decimal.Decimal, lambda v: (decimal.Decimal.__str__(v),)),
    "_Fraction": (fractions.Fraction, lambda v: (v._numerator, v._denominator)),
    "_datetime": (datetime.datetime, lambda v: (*v.timetuple()[:6], v.microsecond, zone(v))),
    "_date": (datetime.date, lambda v: (v.year, v.month, v.day)),
    "_time": (datetime.time, lambda v: (v.hour, v.minute, v.second, v.microsecond, zone(v))),
    "_timezone": (datetime.timezone, lambda v: (v.utcoffset(None),)),
    "_timedelta": (datetime.timedelta, lambda v: (v.days, v.seconds, v.microseconds)),
    "_deque": (collections.deque, lambda v: ([*v],)),
    "_Counter": (collections.Counter, lambda v: ({**v},)),
    "_bytearray": (bytearray, lambda v: (bytes(v),)),
    "_range": (range, lambda v: (v.start, v.stop, v.step)),
    "_slice": (slice, lambda v: (v.start, v.stop, v.step)),
}
STAND_IN = ()  # the judge's, in place of what it does not know
def encode(v):  # raises NotPlain, and what an object that is none may raise when it is looked at
    for kind in (bool, int, float, complex, str, bytes):
        if isinstance(v, kind):
            text = kind.__repr__(v)
            if kind is float and v != v:
                return "_nan()"
            return text.replace("inf", "1e999") if kind in (float, complex) else text
    if v is None:
        return "None"
    if isinstance(v, type) and getattr(builtins, v.__name__, None) is v:
        return f"_type({v.__name__!r},)"
    if isinstance(v, STAND_IN):
        return v._source
    for name, (kind, arguments) in BUILT.items():
        if type(v) is kind:
            return f"{name}{encode(arguments(v))}"
    if isinstance(v, tuple):
        text = "(" + "".join(encode(x) + "," for x in tuple.__iter__(v)) + ")"
        fields = getattr(type(v), "_fields", None)
        return f"_named({type(v).__name__!r},{encode([*fields])},{text},)" if fields else text
    if isinstance(v, list):
        return "[" + ",".join(encode(x) for x in list.__iter__(v)) + "]"
    if isinstance(v, dict):
        return "{" + ",".join(f"{encode(k)}:{encode(x)}" for k, x in dict.items(v)) + "}"
    if isinstance(v, frozenset):
        return f"_frozenset([{','.join(sorted(map(encode, frozenset.__iter__(v))))}],)"
    if isinstance(v, set):
        items = sorted(map(encode, set.__iter__(v)))
        return "{" + ",".join(items) + "}" if items else "set()"
    if type(v).__module__ == "numpy" and hasattr(v, "dtype"):
        return f"_array({encode(v.tolist())},{str(v.dtype)!r},)" if v.shape else encode(v.item())
    raise NotPlain(f"{type(v).__name__} is no plain data")
def named(name, fields, values):
    return collections.namedtuple(name, fields)(*values)
def array(items, kind):
    import numpy
    return numpy.array(items, kind)
MAKERS = {"_named": named, "_array": array, "_frozenset": frozenset, "_nan": lambda: float("nan"),
          "_type": lambda name: getattr(builtins, name), "set": set}
MAKERS |= {name: kind for name, (kind, _) in BUILT.items()}
ODD = (ArithmeticError, AttributeError, ImportError, LookupError, MemoryError, RecursionError,
       SyntaxError, TypeError, ValueError)  # what literals and their makers raise
def decode(text):  # raises NotPlain
    try:
        return build(ast.parse(text, mode="eval").body)
    except ODD as error:
        raise NotPlain("no text of plain data") from error
def build(node):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return MAKERS[node.func.id](*map(build, node.args))
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)](map(build, node.elts))
    if isinstance(node, ast.Dict):
        return dict(zip(map(build, node.keys), map(build, node.values), strict=True))
    return ast.literal_eval(node)
"""

# Runs the operations of all tests, in order, and sends back what each gave: its text, None for what
# is no plain data; what it made of its arguments; what it printed.
PROBE = r"""
out, sys.stdout = sys.stdout, io.StringIO()
sys.modules["answer"] = types.ModuleType("answer")
space = vars(sys.modules["answer"])
for source in before, answer:
    exec(compile(source, "answer.py", "exec", dont_inherit=True), space)
_, failed = outcome_of(exec, setup, space)  # shown beside the tests that are not passed
def state(v):
    if isinstance(v, enum.Enum):
        return type(v).__name__, {"name": v.name, "value": v.value}
    names = [name for kind in type(v).__mro__ for name in vars(kind).get("__slots__", ())]
    slots = {name: getattr(v, name) for name in names if hasattr(v, name)}
    return type(v).__name__, slots | getattr(v, "__dict__", {})
held = MAKERS | {"_state": state, "_islice": itertools.islice}
held |= {f"_{name}": getattr(builtins, name) for name in uses}
def plain(value):
    return outcome_of(encode, value)[0]
def run(source, handed, arguments):
    arguments |= {name: eval(literal, space, held) for name, literal in handed.items()}
    return eval(source, space, held | arguments)
results = []
for test, operations in enumerate(transcript):
    results.append([])
    for source, handed, name in operations:
        sys.stdout, arguments = io.StringIO(), {}
        value, error = outcome_of(run, source, handed, arguments)
        if error is None:
            held[name] = value
            same = [f"@{key}" for key, given in arguments.items() if given is value]
            text = same[0] if same else plain(value)
        else:
            kinds = " ".join(kind.__name__ for kind in type(error).__mro__)
            text = f"!{kinds}!{plain([*error.args])}"
        after = {name: plain(value) for name, value in arguments.items()}
        results[-1].append([text, after, sys.stdout.getvalue()])
report = {"setup": None if failed is None else reason(failed), "results": results}
print("\n" + mark + json.dumps(report), file=out)
"""

# A stand-in is what the answer's code gives and nobody knows yet, or what is no plain data. Most
# test code can go on with it, so that one round notes all operations; asserts have become
# `_check(...)`, which goes on too. An operation that raised raises here. Against plain data an
# object shows nothing, as its own `__eq__` would decide; two objects are equal if they say so and
# hold the same. The check of a test is (passed, failure); passed is None where it cannot be judged.
JUDGE = r"""
MUTABLE = list | dict | set | bytearray | collections.deque
class StandIn:
    def __init__(self, source, known=False):
        self.__dict__.update(_source=source, _known=known, _hides=False)
    def __getattr__(self, name):
        return ask(f"{self._source}.{name}")
    def __setattr__(self, name, value):
        ask(f"_setattr({self._source}, {name!r}, {send(value)})")
    def __call__(self, *args, **named):
        handed = {}
        texts = [send(v, handed) for v in args]
        texts += [f"{k}={send(v, handed)}" for k, v in named.items()]
        return ask(f"{self._source}({', '.join(texts)})", handed)
    def __iter__(self):
        whole = ask(f"_iter({self._source})")._source
        for most in 200, 100000:  # it may be endless, with items that grow
            items = ask(f"[*_islice({whole}, {most})]")
            if isinstance(items, StandIn):  # objects among them
                count = ask(f"_len({items._source})", default=0)
                items = [items[index] for index in range(count)]
            yield from items
            if len(items) < most:
                return
    def __exit__(self, *_):
        ask(f"{self._source}.__exit__(None, None, None)")
    def __contains__(self, item):
        return ask(f"{send(item)} in {self._source}", default=True)
    def __instancecheck__(self, item):
        return ask(f"_isinstance({send(item)}, {self._source})", default=True)
    def __eq__(self, other):
        return self._alike(other, "==")
    def __ne__(self, other):
        return self._alike(other, "!=")
    def _alike(self, other, sign):
        says = self._compared(other, sign)
        if not says or not isinstance(other, StandIn) or not (self._known and other._known):
            return says
        states = [ask(f"_state({each._source})") for each in (self, other)]
        if any(isinstance(state, StandIn) for state in states):
            if unknown:
                return True
            raise TypeError("not plain data")
        if not states[0][1] or not states[1][1]:
            raise TypeError("nothing to be seen of an object")
        return (states[0] == states[1]) == (sign == "==")
    def _compared(self, other, sign):
        if not isinstance(other, StandIn):
            if self._known:
                raise TypeError("not plain data")
            return True
        if not (self._known and other._known):
            return True  # whatever comes out, there will be another round
        return ask(f"{self._source} {sign} {other._source}", default=True)
def operator(name, sign, turned=False):
    def use(self, other):
        pair = (send(other), self._source) if turned else (self._source, send(other))
        result = ask(f"({pair[0]} {sign} {pair[1]})")
        # an object could hide how far it is from what it is not equal to
        plain = not isinstance(other, StandIn)
        if self._hides or (self._known if plain else other._hides):
            if not isinstance(result, StandIn):
                raise TypeError("plain data of an object's own operator")
            result.__dict__.update(_hides=True)
        return result
    setattr(StandIn, f"__{name}__", use)
for name, sign in zip("add sub mul truediv floordiv mod pow and or xor matmul".split(),
                      "+ - * / // % ** & | ^ @".split(), strict=True):
    operator(name, sign)
    operator("r" + name, sign, True)
for name, sign in zip("lt le gt ge".split(), "< <= > >=".split(), strict=True):
    compare = lambda self, other, sign=sign: self._compared(other, sign)
    setattr(StandIn, f"__{name}__", compare)
for name, default in {"len": 0, "bool": True, "int": 0, "float": 0.0, "str": "", "repr": "",
                      "abs": None, "round": None, "hash": 0}.items():
    def use(self, *_, name=name, default=default):
        if self._hides and name not in ("len", "str", "repr"):
            raise TypeError("plain data of an object's own operator")
        return ask(f"_{name}({self._source})", default=default)
    setattr(StandIn, f"__{name}__", use)
for name, form in {"getitem": "{}[{}]", "setitem": "{}.__setitem__({}, {})", "neg": "(-{})",
                   "delitem": "{}.__delitem__({})", "next": "_next({})",
                   "enter": "{}.__enter__()"}.items():
    use = lambda self, *args, form=form: ask(form.format(self._source, *map(send, args)))
    setattr(StandIn, f"__{name}__", use)
StandIn.__index__ = lambda self: ask(f"_int({self._source})", default=0)
STAND_IN = StandIn
def send(value, handed=None):  # raises NotPlain, for a function of the test's own for instance
    if handed is None or not isinstance(value, MUTABLE):
        return encode(value)
    name = next((name for name, held in handed.items() if held is value), f"_m{len(handed)}")
    encode(handed.setdefault(name, value))
    return name
def ask(source, handed={}, default=None):
    texts = {name: encode(value) for name, value in handed.items()}
    # named by what is done, not by its place: in the next round some is not asked, of plain data
    key = zlib.crc32(repr([source, texts]).encode("utf-8", "replace"))
    name = f"_{len(transcript) - 1}_{key:x}_{times[key]}"
    times[key] += 1
    transcript[-1].append([source, texts, name])
    before = known[len(transcript) - 1].get(name, []) if known else []
    if before[:2] != [source, texts]:
        unknown.append(name)
        if len(unknown) > 300:
            raise Stop("a loop that ends by what is not known yet")
        return StandIn(name) if default is None else default
    text, after, printed = before[3:]
    print(printed, end="")
    for argument, value in handed.items():
        update(value, after.get(argument))
    if text is None:
        if default is not None:
            raise TypeError("not plain data")
        return StandIn(name, known=True)
    if text.startswith("@"):  # one of its arguments
        return handed[text[1:]]
    if text.startswith("!"):
        _, names, arguments = text.split("!", 2)
        kind = next(filter(None, map(exception, names.split())), RuntimeError)
        if kind is StopIteration and source.partition("(")[0] in answers:
            kind = RuntimeError  # it would end a loop of the test over `map`
        raise kind.__new__(kind, *(decode(arguments) if arguments != "None" else [source]))
    try:
        value = decode(text)
    except NotPlain:
        return StandIn(name, known=True)
    if default is not None and type(value) is not type(default):
        raise TypeError("another type")
    return value
def exception(name):
    kind = exceptions.get(name) or getattr(builtins, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None
def update(value, text):
    try:
        new = decode(text)
    except NotPlain:
        return
    value.clear()
    (value.update if isinstance(value, dict | set) else value.extend)(new)
def check(test):
    holding = []
    space = {"__name__": "tests", "_ask": ask, "_check": lambda value: holding.append(bool(value))}
    space["issubclass"] = lambda *pair: ask(f"_issubclass({', '.join(map(send, pair))})")
    space |= answers | exceptions
    _, error = outcome_of(exec, setup, space)
    if error is None:
        space |= answers  # classes of the setup too, which the answer is to see
        _, error = outcome_of(exec, test, space)
    if error is not None:
        return None if isinstance(error, NotPlain | ImportError) else False, reason(error)
    if not transcript[-1]:
        return False, "it asks nothing of the program"
    return all(holding), "" if all(holding) else "an assert does not hold"
out, sys.stdout, transcript, unknown, checks = sys.stdout, io.StringIO(), [], [], []
times = collections.Counter()  # how often the same was done
known = [{operation[2]: operation for operation in operations} for operations in known]
exceptions = {name: type(name, (Exception,), {}) for name in caught}
answers = {name: StandIn(name, known=True) for name in names}
for test in tests:
    random.seed(0)
    transcript.append([])
    unknown.clear()
    checks.append(check(test))
print("\n" + mark + json.dumps([checks, transcript]), file=out)
"""
