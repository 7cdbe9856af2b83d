"""What the tiny model is pretrained on, and the tokenizer that ships with it."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mxa_lite import embedded
from mxa_lite.embedded import corpus, pretrain
from mxa_lite.mas.check import check
from mxa_lite.tasks import arithmetic
from mxa_lite.texts import answers, prompts

CHATS = list(itertools.islice(corpus.chats(1), 3000))
DESIGNS = [chat for chat in CHATS if chat[0]["content"] == prompts.DESIGNER_SYSTEM]


def test_a_sum_that_is_written_is_right():
    for chat in CHATS:
        for left, right in re.findall(r"^(\d+[-+*/]\d+)=(\d+)$", chat[-1]["content"], re.M):
            assert eval(left) == int(right)


def test_no_question_that_is_held_out_is_in_it():
    texts = [chat[1]["content"] for chat in DESIGNS]
    assert texts and {arithmetic.place(text) for text in texts} == {"train"}


def test_every_pattern_is_written_for_every_kind_of_question_and_few_scripts_are_broken():
    shapes: dict[str, Counter[str]] = {"one line": Counter(), "lines": Counter()}
    broken = 0
    for chat in DESIGNS:
        checked = check(answers.extract_script(chat[-1]["content"]) or "")
        broken += checked.outcome is not None
        shapes["lines" if "\n" in chat[1]["content"] else "one line"][checked.pattern] += 1
    patterns = {"single", "vote", "judge", "reflect", "debate", "chain", "pipeline", "map"}
    for counts in shapes.values():
        shares = {name: n / counts.total() for name, n in counts.items()}
        assert all(0.05 < shares[name] < 0.25 for name in patterns), counts
    assert 0 < broken < 0.06 * len(DESIGNS)


def test_careful_and_careless_replies_follow_every_prompt():
    for system in corpus.SOLVE:
        replies = [
            chat[-1]["content"]
            for chat in CHATS
            if chat[0]["content"] == prompts.agent_system(system) and chat[1]["content"] != "Sums."
        ]
        careful = sum("=" in reply for reply in replies) / len(replies)
        assert 0.1 < careful < 0.75


def test_the_tokenizer_writes_every_prompt_of_the_kit_in_about_a_token_a_word():
    tokenizer = AutoTokenizer.from_pretrained(embedded.FOLDER)
    tools = prompts.tools([("python(code)", "runs a Python program, shows what it prints")])
    for text in (prompts.LANGUAGE, tools, prompts.FINAL_TURN):
        words = re.findall(r"\w+|[^\w\s]", text)
        assert len(tokenizer(text)["input_ids"]) <= 1.2 * len(words)
    digits = tokenizer.tokenize("12+199=211")
    assert digits == list("12+199=211")


def test_chats_are_encoded_as_generation_encodes_them():
    tokenizer = AutoTokenizer.from_pretrained(embedded.FOLDER)
    for chat, (ids, start) in zip(CHATS[:50], pretrain.encode(tokenizer, CHATS[:50]), strict=True):
        assert ids == tokenizer.apply_chat_template(chat, return_dict=False)
        prompt = tokenizer.apply_chat_template(
            chat[:-1], add_generation_prompt=True, return_dict=False
        )
        assert ids[:start] == prompt


def test_the_model_in_the_package_knows_the_corpus_and_is_small() -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded.FOLDER)
    model = AutoModelForCausalLM.from_pretrained(embedded.FOLDER, dtype=torch.float32)
    assert sum(p.numel() for p in model.parameters()) <= 2_000_000
    ids, replies = next(pretrain.batches(tokenizer, seed=5))
    with torch.no_grad():
        assert pretrain.loss_of(model, ids, replies) < 1.0  # 6.8 for a model that knows nothing


def test_what_nf4_adds_is_a_tenth_of_the_weights_it_is_given() -> None:
    model = AutoModelForCausalLM.from_pretrained(embedded.FOLDER, dtype=torch.float32)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    for matrix, error in zip(matrices, pretrain.nf4_errors(matrices), strict=True):
        assert error.abs().mean() < 0.12 * matrix.abs().mean()
