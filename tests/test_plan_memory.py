"""The plan's formula against live tensor bytes, traced by the allocator (not the process's RSS)."""

from types import SimpleNamespace

import pytest
import torch
from allocations import held, peak
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LogitsProcessorList

from mxa_lite import embedded
from mxa_lite.learn.trainer import RoleTrainer
from mxa_lite.machine.plan import estimate, shape_of
from mxa_lite.policy.load import load as load_model
from mxa_lite.policy.noise import Draws
from mxa_lite.recipe.file import load


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vocab", "hidden", "intermediate", "layers", "heads", "kv_heads"),
    [
        (512, 128, 384, 4, 4, 4),
        (8192, 320, 896, 10, 5, 5),
        (49_152, 576, 1536, 10, 9, 3),  # a third of the 135M layers
    ],
)
def test_the_formula_is_within_a_fifth_of_live_tensor_bytes(
    tmp_path, vocab, hidden, intermediate, layers, heads, kv_heads
):
    """An update of both roles and a generation on CPU: fp32, no checkpointing, plain logits."""
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            tie_word_embeddings=True,
        )
    ).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(embedded.FOLDER).save_pretrained(tmp_path)
    rows, prompt, new = 4, 4, 60
    tokens = rows * (prompt + new)
    recipe = load(
        "arithmetic",
        [
            f"model.name={tmp_path}",
            "model.loader=plain",
            f"model.max_length={prompt + new}",
            f"rollout.max_completion_tokens={new}",
            f"train.tokens_per_micro_batch={tokens}",
            f"generation_tokens={tokens}",
        ],
    )
    parts = estimate(shape_of(str(tmp_path)), recipe, b=4, gpu=False)
    policy = load_model(recipe)
    model = policy.model
    static = held(model.parameters())
    assert parts["weights"] + parts["adapters"] == pytest.approx(static, rel=0.05)

    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    ids = torch.randint(5, vocab, (rows, prompt + new))
    micro = SimpleNamespace(packs=())
    head = SimpleNamespace(temperature=1.0, _measure=lambda *_: None, _micro=micro)

    def update():
        logps, _, _ = RoleTrainer._get_per_token_logps_and_entropies(
            head, model, ids, torch.ones_like(ids), new
        )
        logps.mean().backward()
        del logps
        optimizer.step()
        optimizer.zero_grad()

    for role in ("designer", "executor"):
        policy.activate(role)
        update()
    moments = held(t for state in optimizer.state.values() for t in state.values())
    updating = sum(parts[name] for name in ("optimizer", "activations", "logits", "dequantized"))
    assert updating == pytest.approx(peak(update) + moments, rel=0.2)

    # As on a GPU, where activations are recomputed: never less than it takes.
    parts = estimate(shape_of(str(tmp_path)), recipe, b=4)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    policy.learning()
    live = peak(update) + moments
    planned = sum(parts[name] for name in ("optimizer", "activations", "logits", "dequantized"))
    assert live <= planned <= 1.5 * live

    policy.generating()
    settings = {"max_new_tokens": new, "min_new_tokens": new, "pad_token_id": 0}
    with torch.inference_mode():
        model.generate(input_ids=ids[:, :prompt], max_new_tokens=1, pad_token_id=0)  # packs weights
        noise = Draws([*range(rows)], [1.0] * rows, new, policy.device)
        noise.start(rows)
        settings["logits_processor"] = LogitsProcessorList([noise])
        generating = peak(lambda: model.generate(input_ids=ids[:, :prompt], **settings))
    planned = sum(parts[name] for name in ("kv_cache", "forward", "dequantized"))
    assert planned == pytest.approx(generating, rel=0.2)
