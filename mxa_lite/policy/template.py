"""Chat messages as the model's own template writes them, and what was found out about it at load.

Templates differ in what they take: some know no system part or lose it, some insist on turns in
alternation, some write the day's date. `probe` renders every shape of prompt the kit uses with
marks for texts, before any work is done, and looks whether all marks come back.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from mxa_lite.errors import InputError

Message = dict[str, str]
DATE = datetime(2026, 1, 1)  # of every prompt: one that changed overnight would break a resume
THOUGHT = "<think>\n"
BREAK = "\ue000"  # of the private use area, which no text has by right
SHAPES = {
    "a question alone": "u",
    "a designer or an agent": "su",
    "an agent that has used a tool": "suau",
    "examples as turns": "suauau",
}
ROLE_OF = {"s": "system", "u": "user", "a": "assistant"}


@dataclass(frozen=True)
class Template:
    """A tokenizer's chat template with the arguments it is given.

    folds: the system part goes into the first user message. joins: messages of the same role in a
    row become one. turn_end: the token that ends an assistant's turn. notes: one line for each
    thing that is done for this template.
    """

    tokenizer: Any
    arguments: dict[str, Any] = field(default_factory=dict)
    folds: bool = False
    joins: bool = False
    turn_end: int = -1
    notes: tuple[str, ...] = ()

    def render(self, messages: list[Message], reply: bool = True) -> str:
        """The text of the messages, and of the header of a reply to come unless `reply` is false.

        Messages that end with an assistant's are a reply to go on with. Raises jinja2's
        TemplateError where the template refuses them.
        """
        begun = ""
        if reply and messages[-1]["role"] == "assistant":
            *messages, last = messages
            begun = last["content"]
        text: str = self.tokenizer.apply_chat_template(
            self._taken(messages),
            tokenize=False,
            add_generation_prompt=reply,
            **{"strftime_now": DATE.strftime} | self.arguments,
        )
        return (text.removesuffix(THOUGHT) if begun else text) + begun

    def _taken(self, messages: list[Message]) -> list[Message]:
        """The messages in a form that the template takes."""
        if self.folds and messages[0]["role"] == "system":
            system, *rest = messages
            first = rest.pop(0)["content"] if rest and rest[0]["role"] == "user" else ""
            text = f"{system['content']}\n\n{first}".strip()
            messages = [{"role": "user", "content": text}, *rest]
        if self.joins:
            joined: list[Message] = []
            for message in messages:
                if joined and joined[-1]["role"] == message["role"]:
                    text = f"{joined[-1]['content']}\n\n{message['content']}"
                    joined[-1] = message | {"content": text}
                else:
                    joined.append(message)
            messages = joined
        return messages

    def ids(self, messages: list[Message], reply: bool = True) -> list[int]:
        """Token ids of what `render` gives; names of special tokens within messages are text."""
        messages = [m | {"content": self._broken(m["content"])} for m in messages]
        return self._pieces(self.render(messages, reply))

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a message's text alone, names of special tokens in it being text."""
        return self._pieces(self._broken(text))

    def _broken(self, text: str) -> str:
        """With a mark inside each name of a special token."""
        return self._special.sub(lambda name: name[0][0] + BREAK + name[0][1:], text)

    def _pieces(self, text: str) -> list[int]:
        """Token ids of what stands between the marks, so that no broken name is a token."""
        return [i for piece in text.split(BREAK) for i in self.plain_ids(piece)]

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """The names of special tokens, longer ones first; never found where there are none."""
        tokens = self.tokenizer.added_tokens_decoder.values()
        names = sorted((str(token) for token in tokens if token.special), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or "(?!)")

    def plain_ids(self, text: str) -> list[int]:
        """Token ids of a text, with nothing put before or behind it."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode(
        self, messages: list[Message], limit: int, reply: bool = True
    ) -> tuple[list[int], bool]:
        """Prompt ids, at most `limit`, and whether something was cut for that: the beginning of the
        longest message's text, the system part last; never the header of a turn."""
        ids, cut = self.ids(messages, reply), False
        messages = list(messages)
        while len(ids) > limit and any(m["content"] for m in messages):
            cut = True
            longest = max(messages, key=lambda m: (m["role"] != "system", len(m["content"])))
            if not longest["content"]:
                longest = messages[0]  # all but the system part is gone
            text = longest["content"]
            tokens = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            starts = [start for start, _ in tokens["offset_mapping"]]
            over = len(ids) - limit
            tail = text[starts[over] :] if over < len(starts) else ""
            changed = longest | {"content": tail if len(tail) < len(text) else ""}
            messages = [changed if m is longest else m for m in messages]
            ids = self.ids(messages, reply)
        return ids[max(len(ids) - limit, 0) :], cut or len(ids) > limit


def _marked(shape: str) -> tuple[list[Message], list[str]]:
    """Messages of a shape, and their texts."""
    texts = [f"text number {number} end" for number in range(len(shape))]
    messages = [
        {"role": ROLE_OF[role], "content": text} for role, text in zip(shape, texts, strict=True)
    ]
    return messages, texts


def _fault(template: Template, shape: str) -> str | None:
    """What is wrong when the template renders this shape; None when all texts come back."""
    messages, texts = _marked(shape)
    try:
        rendered, again = template.render(messages), template.render(messages)
    except (TemplateError, TypeError, ValueError) as error:
        return " ".join(str(error).split())[:200] or type(error).__name__
    places = [rendered.find(text) for text in texts]
    if -1 in places:
        return f"it leaves the {ROLE_OF[shape[places.index(-1)]]} message out"
    if places != sorted(places):
        return "it changes the order of messages"
    return None if rendered == again else "it renders the same messages differently each time"


def probe(tokenizer: Any, arguments: dict[str, Any]) -> Template:
    """The template as the kit will use it. Raises InputError where a shape cannot be rendered."""
    if tokenizer.chat_template is None:
        raise InputError("model.name: the model has no chat template; use a chat model")
    template = Template(tokenizer, dict(arguments))
    notes: list[str] = []
    thinking, note = _thinking(template)
    notes += [note] if note else []
    template = replace(template, arguments=thinking | template.arguments)
    for folds, joins in itertools.product((False, True), repeat=2):
        candidate = replace(template, folds=folds, joins=joins)
        # Scripts may put two user messages in a row; where that is refused they are joined.
        faults = {name: _fault(candidate, shape) for name, shape in SHAPES.items()}
        if not any(faults.values()) and (candidate.joins or not _fault(candidate, "suu")):
            break
    else:
        name, fault = next(((n, f) for n, f in faults.items() if f))
        raise InputError(
            f"model.name: the chat template cannot render {name}: {fault}; give the model another"
            " chat_template.jinja"
        )
    if candidate.folds:
        notes.append("the chat template takes no system message: it goes into the first user's")
    if candidate.joins:
        notes.append("the chat template wants turns in alternation: messages in a row are joined")
    if "strftime_now" in str(tokenizer.chat_template):
        notes.append(f"the chat template writes the date: always {DATE:%Y-%m-%d}")
    return replace(candidate, turn_end=_turn_end(candidate), notes=tuple(notes))


def _thinking(template: Template) -> tuple[dict[str, Any], str | None]:
    """Arguments that turn thinking off, where the template has one, and what will happen."""
    messages, _ = _marked("u")
    try:
        texts = {
            value: replace(
                template, arguments=template.arguments | {"enable_thinking": value}
            ).render(messages)
            for value in (False, True)
        }
        text = template.render(messages)
    except (TemplateError, TypeError, ValueError):
        return {}, None  # named by the shapes
    if texts[False] != texts[True]:
        if "enable_thinking" in template.arguments:
            return {}, None
        return {"enable_thinking": False}, (
            "thinking is off; --set model.chat_template={enable_thinking: true} turns it on"
        )
    if text.rstrip().endswith("<think>"):
        return {}, "the chat template opens <think>: every reply begins with thoughts"
    return {}, None


def _turn_end(template: Template) -> int:
    """The token behind an assistant's text; the tokenizer's eos where the template writes none."""
    messages, texts = _marked("ua")
    ending = template.render(messages, reply=False).rpartition(texts[-1])[2].lstrip()
    ids = template.plain_ids(ending)
    if ids and ids[0] in template.tokenizer.added_tokens_decoder:
        return ids[0]
    if template.tokenizer.eos_token_id is None:
        raise InputError("model.name: neither chat template nor tokenizer says how a reply ends")
    return int(template.tokenizer.eos_token_id)
