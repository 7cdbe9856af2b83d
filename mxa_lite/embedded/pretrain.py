"""Train the tiny model and its tokenizer from nothing.

    python -m mxa_lite.embedded.pretrain --output first --full-precision
    python -m mxa_lite.embedded.pretrain --output mxa_lite/embedded/model --start first \\
        --minutes 16 --rate 2e-3 --seed 2

A Llama-shaped model, digits as single tokens, trained on `corpus.chats` with the loss on replies.
Hidden matrices by Muon, the rest by AdamW. A run loads the hidden matrices in NF4, so the second
command learns with the values that NF4 leaves. Meant for one core: OMP_NUM_THREADS=1.

The model in the package came about in three legs on a core shared with other work, 65 minutes and
about 17 million tokens: 40 in full precision at width 160; then, widened to 192 by zeros that
change nothing, since bitsandbytes misreads rows that are not whole blocks of 64, 10 of 20 minutes
with NF4's values at rate 2e-3; last 15 at 1.6e-3, when replies to parts of a question had become
careful more often (`corpus.PART_CARE`). The commands above are the same in fewer legs; they have
not been run to the end.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mxa_lite.embedded.corpus import Chat, chats
from mxa_lite.texts import prompts

PAD, END = "<|pad|>", "<|end|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
VOCABULARY, WIDTH, LAYERS = 1024, 192, 4  # the width is a multiple of 64
TOKENS = 6144  # of a batch
# Texts of the kit that the corpus does not hold, and how often the tokenizer is shown them.
KIT = (prompts.LANGUAGE, prompts.FINAL_TURN, *map(prompts.example, prompts.PATTERNS))
REPEATS = 100
REQUANTIZED = 16  # steps between two looks at what NF4 makes of the weights
LENGTHS = 16  # lengths of batches are multiples of it


def make_tokenizer() -> PreTrainedTokenizerFast:
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
    texts = (m["content"] for chat in itertools.islice(chats(0), 20_000) for m in chat)
    core.train_from_iterator(itertools.chain(texts, KIT * REPEATS), trainer)
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


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A random Llama of two million parameters; head size 32.

    Its attention is the plain one: in training on a CPU it is half as fast again as the fused one.
    """
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=WIDTH * 8 // 3 // 64 * 64,  # whole blocks of NF4
            num_hidden_layers=LAYERS,
            num_attention_heads=WIDTH // 32,
            num_key_value_heads=WIDTH // 32,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            attn_implementation="eager",
        )
    )


def encode(tokenizer: PreTrainedTokenizerFast, chats: list[Chat]) -> list[tuple[list[int], int]]:
    """Token ids of each chat and where its reply starts."""
    heads = ["".join(f"<|{m['role']}|>{m['content']}{END}" for m in chat[:-1]) for chat in chats]
    texts = [f"{head}{ASSISTANT}" for head in heads] + [c[-1]["content"] + END for c in chats]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    pairs = zip(ids[: len(chats)], ids[len(chats) :], strict=True)
    return [(head + tail, len(head)) for head, tail in pairs]


def batches(
    tokenizer: PreTrainedTokenizerFast, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (ids, replies), each (rows, T), of at most TOKENS tokens.

    replies: whether a token belongs to a reply. Chats of about one length wait for each other: the
    few shapes that result are compiled for once.
    """
    source = chats(seed)
    waiting: dict[int, list[tuple[list[int], int]]] = defaultdict(list)
    while True:
        for row in encode(tokenizer, list(itertools.islice(source, 512))):
            length = -(-len(row[0]) // LENGTHS) * LENGTHS
            waiting[length].append(row)
            if len(waiting[length]) < TOKENS // length:
                continue
            rows = waiting.pop(length)
            ids = torch.full((len(rows), length), tokenizer.pad_token_id)
            replies = torch.zeros(len(rows), length, dtype=torch.bool)
            for i, (chat, start) in enumerate(rows):
                ids[i, : len(chat)] = torch.tensor(chat)
                replies[i, start : len(chat)] = True
            yield ids, replies


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, replies: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the replies' tokens; ids and replies are (rows, T)."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    logits = model.lm_head(hidden[replies[:, 1:]]).float()
    return torch.nn.functional.cross_entropy(logits, ids[:, 1:][replies[:, 1:]])


def nf4_errors(matrices: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    """What a 4-bit run adds to each matrix.

    bitsandbytes 0.50 on a CPU needs rows of whole blocks of 64; others come back wrong.
    """
    return [
        dequantize_4bit(*quantize_4bit(matrix.data, quant_type="nf4")) - matrix.data
        for matrix in matrices
    ]


@contextmanager
def added(matrices: list[torch.nn.Parameter], errors: list[torch.Tensor]) -> Iterator[None]:
    """The matrices with errors added; a gradient computed meanwhile goes to the exact ones."""
    exact = [matrix.data for matrix in matrices]
    for matrix, error in zip(matrices, errors, strict=True):
        matrix.data = matrix.data + error
    yield
    for matrix, values in zip(matrices, exact, strict=True):
        matrix.data = values


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    minutes: float,
    seed: int,
    rate: float,
    output: Path,
    full_precision: bool,
) -> None:
    """Train for a given time, and save; the rate rises over 2 % of it and falls in a line to 0."""
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(hidden, lr=rate, adjust_lr_fn="match_rms_adamw", weight_decay=0.01),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    model.train()
    started, mean, tokens = time.monotonic(), 0.0, 0
    for step, (ids, replies) in enumerate(batches(tokenizer, seed)):
        share = (time.monotonic() - started) / (60 * minutes)
        if share >= 1:
            break
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, share / 0.02, (1 - share) / 0.7)
        if step % REQUANTIZED == 0:
            noisy = [] if full_precision else hidden
            errors = nf4_errors(noisy)
        with added(noisy, errors):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(model, ids, replies)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        tokens += ids.numel()
        mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 0:
            click.echo(f"step {step} done {share:.0%} loss {mean:.4f} tokens {tokens / 1e6:.1f}M")
    save(model, tokenizer, output)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Write both as a model folder, the weights in bfloat16."""
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    weights = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    model.config.dtype = torch.bfloat16
    model.save_pretrained(output, state_dict=weights)
    tokenizer.save_pretrained(output)


@click.command(help=__doc__)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--minutes", default=40.0, help="training time")
@click.option("--rate", default=4e-3, help="peak learning rate")
@click.option("--seed", default=1)
@click.option("--start", type=click.Path(exists=True), help="a model folder to go on from")
@click.option("--full-precision", is_flag=True, help="learn with exact weights, not NF4's")
def main(
    output: Path, minutes: float, rate: float, seed: int, start: str | None, full_precision: bool
) -> None:
    torch.manual_seed(seed)
    if start:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(start)
        model = LlamaForCausalLM.from_pretrained(
            start, dtype=torch.float32, attn_implementation="eager"
        )
    else:
        tokenizer = make_tokenizer()
        model = make_model(tokenizer)
    click.echo(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    train(model, tokenizer, minutes, seed, rate, output, full_precision)


if __name__ == "__main__":
    main()
