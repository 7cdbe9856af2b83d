"""Train the tiny model and its tokenizer from nothing.

    python -m mxa_lite.embedded.pretrain --output mxa_lite/embedded/model

A Llama-shaped model, digits as single tokens, trained on `corpus.chats` with the loss on replies
(prompts count a little). Hidden matrices by Muon, the rest by AdamW.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path

import click
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mxa_lite.embedded.corpus import Chat, chats

PAD, END = "<|pad|>", "<|end|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
VOCABULARY = 768
PROMPT_WEIGHT = 0.05


def make_tokenizer(seed: int = 0, documents: int = 20_000) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the corpus: any text can be written, every digit is one token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END, SYSTEM, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    some = itertools.islice(chats(seed), documents)
    core.train_from_iterator((m["content"] for chat in some for m in chat), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=TEMPLATE,
        model_max_length=512,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> LlamaForCausalLM:
    """A random Llama of about a million parameters; head size 32."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=width * 3,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            num_key_value_heads=width // 32,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def encode(tokenizer: PreTrainedTokenizerFast, chat: Chat) -> tuple[list[int], int]:
    """Token ids of a chat and where its reply starts."""
    prompt = tokenizer.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
    head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    tail = tokenizer(chat[-1]["content"] + END, add_special_tokens=False)["input_ids"]
    return head + tail, len(head)


def batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, tokens: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (ids, weights), each (rows, T), of about `tokens` tokens, by length."""
    source = chats(seed)
    rng = random.Random(seed)
    while True:
        pool = sorted(
            (encode(tokenizer, chat) for chat in itertools.islice(source, 2048)),
            key=lambda row: len(row[0]),
        )
        chunks: list[list[tuple[list[int], int]]] = [[]]
        for row in pool:
            if chunks[-1] and (len(chunks[-1]) + 1) * len(row[0]) > tokens:
                chunks.append([])
            chunks[-1].append(row)
        rng.shuffle(chunks)
        for chunk in chunks:
            longest = max(len(ids) for ids, _ in chunk)
            ids = torch.full((len(chunk), longest), tokenizer.pad_token_id)
            weights = torch.zeros(len(chunk), longest)
            for i, (tokens_of, start) in enumerate(chunk):
                ids[i, : len(tokens_of)] = torch.tensor(tokens_of)
                weights[i, : len(tokens_of)] = PROMPT_WEIGHT
                weights[i, start : len(tokens_of)] = 1.0
            yield ids, weights


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean cross entropy of the next token; ids and weights are (rows, T)."""
    logits = model(input_ids=ids).logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    w = weights[:, 1:].flatten()
    return (losses * w).sum() / w.sum()


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    minutes: float,
    seed: int,
    rate: float,
    tokens: int,
) -> None:
    """Train for a given time; the rate rises over 2 % of it and falls in a line to 0."""
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(hidden, lr=rate, adjust_lr_fn="match_rms_adamw", weight_decay=0.01),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    model.train()
    started, mean, seen = time.monotonic(), 0.0, 0
    for step, (ids, weights) in enumerate(batches(tokenizer, seed, tokens)):
        done = (time.monotonic() - started) / (60 * minutes)
        if done >= 1:
            break
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, done / 0.02, (1 - done) / 0.7)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        seen += ids.numel()
        mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 0:
            click.echo(f"step {step} done {done:.0%} loss {mean:.4f} tokens {seen / 1e6:.1f}M")


@click.command(help=__doc__)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--minutes", default=20.0, help="training time")
@click.option("--width", default=128)
@click.option("--layers", default=4)
@click.option("--rate", default=4e-3, help="peak learning rate")
@click.option("--tokens", default=8192, help="tokens a batch")
@click.option("--seed", default=1)
def main(
    output: Path, minutes: float, width: int, layers: int, rate: float, tokens: int, seed: int
) -> None:
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, width, layers)
    click.echo(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    train(model, tokenizer, minutes, seed, rate, tokens)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.to(torch.bfloat16).save_pretrained(output)
    tokenizer.save_pretrained(output)


if __name__ == "__main__":
    main()
