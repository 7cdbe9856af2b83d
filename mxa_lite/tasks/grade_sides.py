"""The two programs that grade by asserts, as text: what both share, the probe and the judge.

In them `except Exception` stands around code that is not ours: the answer's, which becomes a value
named after its exception, and a test's, which then is not passed.
"""

# Values as the text of a literal, or of a call that `decode` knows; independent of overridden
# methods. None for what is no plain data.
SHARED = r"""
import ast, builtins, collections, datetime, decimal, enum, fractions, io, itertools, json, random
import sys, types
sys.set_int_max_str_digits(0)
MADE = {
    "_Decimal": (decimal.Decimal, lambda v: (decimal.Decimal.__str__(v),)),
    "_Fraction": (fractions.Fraction, lambda v: (v._numerator, v._denominator)),
    "_datetime": (datetime.datetime, lambda v: (*v.timetuple()[:6], v.microsecond)),
    "_date": (datetime.date, lambda v: (v.year, v.month, v.day)),
    "_time": (datetime.time, lambda v: (v.hour, v.minute, v.second, v.microsecond)),
    "_timedelta": (datetime.timedelta, lambda v: (v.days, v.seconds, v.microseconds)),
    "_deque": (collections.deque, lambda v: ([*v],)),
    "_Counter": (collections.Counter, lambda v: ({**v},)),
    "_bytearray": (bytearray, lambda v: (bytes(v),)),
    "_range": (range, lambda v: (v.start, v.stop, v.step)),
}
def encode(v):
    for kind in (bool, int, float, complex, str, bytes):
        if isinstance(v, kind):
            text = kind.__repr__(v)
            if kind is float and v != v:
                return "_nan()"
            return text.replace("inf", "1e999") if kind in (float, complex) else text
    if v is None:
        return "None"
    for name, (kind, arguments) in MADE.items():
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
        return f"_frozenset([{','.join(sorted(map(encode, list(v))))}],)"
    if isinstance(v, set):
        return "{" + ",".join(sorted(encode(x) for x in list(v))) + "}" if len(v) else "set()"
    if type(v).__module__ == "numpy":
        return f"_array({encode(v.tolist())},{str(v.dtype)!r},)" if v.shape else encode(v.item())
    return v._encoded()  # a Part, and nothing else
def named(name, fields, values):
    return collections.namedtuple(name, fields)(*values)
def array(items, kind):
    import numpy
    return numpy.array(items, kind)
MAKERS = {"_named": named, "_array": array, "_frozenset": frozenset, "_nan": lambda: float("nan")}
MAKERS |= {name: kind for name, (kind, _) in MADE.items()}
def decode(text):
    try:
        return ast.literal_eval(text)
    except ValueError:
        return build(ast.parse(text, mode="eval").body)
def build(node):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return MAKERS[node.func.id](*map(build, node.args))
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)](map(build, node.elts))
    if isinstance(node, ast.Dict):
        return dict(zip(map(build, node.keys), map(build, node.values), strict=True))
    return ast.literal_eval(node)
"""

# Runs the operations of all tests, in order, and sends back what each gave.
PROBE = r"""
out, sys.stdout = sys.stdout, io.StringIO()
sys.modules["answer"] = types.ModuleType("answer")
space = vars(sys.modules["answer"])
for part in before, answer:
    exec(compile(part, "answer.py", "exec", dont_inherit=True), space)
try:
    exec(setup, space)
except Exception:
    pass
def state(v):
    if isinstance(v, enum.Enum):
        return type(v).__name__, {"name": v.name, "value": v.value}
    names = [name for kind in type(v).__mro__ for name in vars(kind).get("__slots__", ())]
    slots = {name: getattr(v, name) for name in names if hasattr(v, name)}
    return type(v).__name__, slots | getattr(v, "__dict__", {})
held = MAKERS | {"_state": state, "_islice": itertools.islice}
held |= {f"_{name}": getattr(builtins, name) for name in uses}
def plain(value):
    try:
        return encode(value)
    except Exception:
        return None
results = []
for test, operations in enumerate(transcript):
    results.append([])
    for number, (source, handed) in enumerate(operations):
        sys.stdout, text, arguments = io.StringIO(), None, {}
        try:
            arguments = {name: eval(literal, space, held) for name, literal in handed.items()}
            value = held[f"_{test}_{number}"] = eval(source, space, held | arguments)
            text = plain(value)
        except Exception as error:
            kinds = " ".join(kind.__name__ for kind in type(error).__mro__)
            text = f"!{kinds}!{plain([*error.args])}"
        handed = {name: plain(value) for name, value in arguments.items()}
        results[-1].append([text, handed, sys.stdout.getvalue()])
print("\n" + mark + json.dumps(results), file=out)
"""

# A `Part` stands for what the answer's code gives and nobody knows yet, or for what is no plain
# data. Most test code can go on with it, so that one round finds all operations; asserts have
# become `_check(...)`, which goes on too. An operation that raised raises here. Against plain data
# an object shows nothing, as its own `__eq__` would decide; two objects are equal if they say so
# and hold the same.
JUDGE = r"""
MUTABLE = list | dict | set | bytearray | collections.deque
class Unknown(BaseException):
    pass
class Unsendable(BaseException):
    pass
class Part:
    def __init__(self, source, known=False):
        self.__dict__.update(_source=source, _known=known)
    def _encoded(self):
        return self._source
    def __getattr__(self, name):
        return ask(f"{self._source}.{name}")
    def __setattr__(self, name, value):
        ask(f"_setattr({self._source}, {name!r}, {send(value)})")
    def __call__(self, *args, **named):
        handed = {}
        given = [send(v, handed) for v in args]
        given += [f"{k}={send(v, handed)}" for k, v in named.items()]
        return ask(f"{self._source}({', '.join(given)})", handed)
    def __getitem__(self, key):
        return ask(f"{self._source}[{send(key)}]")
    def __setitem__(self, key, value):
        ask(f"{self._source}.__setitem__({send(key)}, {send(value)})")
    def __delitem__(self, key):
        ask(f"{self._source}.__delitem__({send(key)})")
    def __iter__(self):
        items = ask(f"[*_islice({self._source}, 100000)]")
        if isinstance(items, Part):  # objects among them
            count = ask(f"_len({items._source})", default=0)
            items = [items[index] for index in range(count)]
        return iter(items)
    def __next__(self):
        return ask(f"_next({self._source})")
    def __enter__(self):
        return ask(f"{self._source}.__enter__()")
    def __exit__(self, *_):
        ask(f"{self._source}.__exit__(None, None, None)")
    def __contains__(self, item):
        return ask(f"{send(item)} in {self._source}", default=True)
    def __instancecheck__(self, item):
        return ask(f"_isinstance({send(item)}, {self._source})", default=True)
    def __hash__(self):
        return id(self)
    def __eq__(self, other):
        return self._alike(other, "==")
    def __ne__(self, other):
        return self._alike(other, "!=")
    def _alike(self, other, sign):
        says = self._compared(other, sign)
        if not says or not isinstance(other, Part) or not (self._known and other._known):
            return says
        states = [ask(f"_state({part._source})") for part in (self, other)]
        if any(isinstance(state, Part) for state in states):
            if unknown:
                return True
            raise TypeError("not plain data")
        if not states[0][1] or not states[1][1]:
            raise TypeError("nothing to be seen of an object")
        return (states[0] == states[1]) == (sign == "==")
    def _compared(self, other, sign):
        if not isinstance(other, Part):
            if self._known:
                raise TypeError("not plain data")
            return True
        if not (self._known and other._known):
            return True  # whatever comes out, there will be another round
        return ask(f"{self._source} {sign} {other._source}", default=True)
def operator(name, sign, turned=False):
    def use(self, other):
        pair = (send(other), self._source) if turned else (self._source, send(other))
        return ask(f"({pair[0]} {sign} {pair[1]})")
    setattr(Part, f"__{name}__", use)
for name, sign in zip("add sub mul truediv floordiv mod pow and or xor matmul".split(),
                      "+ - * / // % ** & | ^ @".split(), strict=True):
    operator(name, sign)
    operator("r" + name, sign, True)
for name, sign in zip("lt le gt ge".split(), "< <= > >=".split(), strict=True):
    setattr(Part, f"__{name}__", lambda self, other, sign=sign: self._compared(other, sign))
for name, default in {"len": 0, "bool": True, "int": 0, "float": 0.0, "str": "", "repr": "",
                      "abs": None, "round": None}.items():
    def use(self, *_, name=name, default=default):
        return ask(f"_{name}({self._source})", default=default)
    setattr(Part, f"__{name}__", use)
Part.__neg__ = lambda self: ask(f"(-{self._source})")
Part.__index__ = lambda self: ask(f"_int({self._source})", default=0)
def send(value, handed=None):
    try:
        if handed is None or not isinstance(value, MUTABLE):
            return encode(value)
        name = next((name for name, held in handed.items() if held is value), f"_m{len(handed)}")
        encode(handed.setdefault(name, value))
        return name
    except AttributeError:  # a function of the test's own, for instance
        raise Unsendable from None
def ask(source, handed={}, default=None):
    operations, number = transcript[-1], len(transcript[-1])
    texts = {name: encode(value) for name, value in handed.items()}
    operations.append([source, texts])
    part = f"_{len(transcript) - 1}_{number}"
    before = known[len(transcript) - 1] if known else []
    if unknown or number >= len(before) or before[number][:2] != [source, texts]:
        unknown.append(number)
        if len(unknown) > 300:  # a loop that ends by what is not known yet
            raise Unknown
        return Part(part) if default is None else default
    text, after, printed = before[number][2:]
    print(printed, end="")
    for name, value in handed.items():
        update(value, after.get(name))
    if text is None:
        if default is not None:
            raise TypeError("not plain data")
        return Part(part, known=True)
    if text.startswith("!"):
        _, names, arguments = text.split("!", 2)
        kind = next(filter(None, map(exception, names.split())), RuntimeError)
        raise kind.__new__(kind, *(decode(arguments) if arguments != "None" else [source]))
    try:
        value = decode(text)
    except Exception:
        return Part(part, known=True)
    if default is not None and type(value) is not type(default):
        raise TypeError("another type")
    return value
def exception(name):
    kind = exceptions.get(name) or getattr(builtins, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None
def update(value, text):
    try:
        new = decode(text)
    except Exception:  # no plain data
        return
    if isinstance(value, dict | set):
        value.clear()
        value.update(new)
    else:
        value.clear()
        value.extend(new)
def _check(value):
    passed[-1] = bool(value) and passed[-1]
out, sys.stdout, transcript, unknown, passed = sys.stdout, io.StringIO(), [], [], []
exceptions = {name: type(name, (Exception,), {}) for name in caught}
answers = {name: Part(name, known=True) for name in names}
for test in tests:
    random.seed(0)
    passed.append(True)
    transcript.append([])
    unknown.clear()
    space = {"__name__": "tests", "_ask": ask, "_check": _check} | answers | exceptions
    try:
        exec(setup, space)
        space |= answers  # classes of the setup too, which the answer is to see
        exec(test, space)
        _check(transcript[-1])
    except (Unsendable, ImportError):
        passed[-1] = None
    except (Exception, Unknown):
        passed[-1] = False
print("\n" + mark + json.dumps([passed, transcript]), file=out)
"""
