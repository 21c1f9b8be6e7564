"""Vision transformers against their formulas, token by token and head by head in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rt_scale.models.networks import initialise
from rt_scale.models.vit import Attention, Block, ViT

HEADS = 3
WIDTH = 12
PER_HEAD = WIDTH // HEADS


def affine(layer: nn.Linear, x: Tensor) -> Tensor:
    return layer.weight @ x + layer.bias


def normed(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.sum() / len(x)
    return centred / ((centred**2).sum() / len(x) + 1e-5).sqrt() * layer.weight + layer.bias


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def weigh(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """The values' average, weighed by the softmax of the scaled inner products."""
    weights = [math.exp((query * key).sum().item() / math.sqrt(PER_HEAD)) for key in keys]
    return sum((w / sum(weights) * v for w, v in zip(weights, values, strict=True)), torch.zeros(PER_HEAD).double())


def parts(layer: Attention, tokens: Tensor) -> list[list[list[Tensor]]]:
    """[q, k or v][token][head]: a token's query, key and value follow each other, each head by head."""
    together = [affine(layer.query_key_value, token) for token in tokens]
    return [
        [[x[p * WIDTH + h * PER_HEAD : p * WIDTH + (h + 1) * PER_HEAD] for h in range(HEADS)] for x in together]
        for p in range(3)
    ]


def over_tokens(layer: Attention, tokens: Tensor) -> Tensor:
    """Every head of every token looks at the same head of all tokens."""
    q, k, v = parts(layer, tokens)
    rows = []
    for n in range(len(tokens)):
        heads = [weigh(q[n][h], [one[h] for one in k], [one[h] for one in v]) for h in range(HEADS)]
        rows.append(affine(layer.output, torch.cat(heads)))
    return torch.stack(rows)


def over_heads(layer: Attention, tokens: Tensor) -> Tensor:
    """Every head of every token looks at all heads of that token; results are read off head by head."""
    q, k, v = parts(layer, tokens)
    mixed = [[weigh(q[n][h], k[n], v[n]) for h in range(HEADS)] for n in range(len(tokens))]
    numbers = torch.cat([mixed[n][h] for h in range(HEADS) for n in range(len(tokens))])
    return torch.stack([affine(layer.output, numbers[n * WIDTH : (n + 1) * WIDTH]) for n in range(len(tokens))])


def through(block: Block, tokens: Tensor, *, heads_mixed: bool, last_gelu: bool) -> Tensor:
    attend = over_heads if heads_mixed else over_tokens
    tokens = tokens + attend(block.attention, torch.stack([normed(block.attention_norm, t) for t in tokens]))
    rows = []
    for token in tokens:
        hidden = affine(block.contract, gelu(affine(block.expand, normed(block.mlp_norm, token))))
        rows.append(token + (gelu(hidden) if last_gelu else hidden))
    return torch.stack(rows)


def embedding(encoder: ViT, image: Tensor, *, patch: int, layers: int, heads_mixed: bool, shared: bool) -> Tensor:
    side = image.shape[1] // patch
    tokens = [encoder.tokens.class_token[0, 0] + encoder.tokens.positions[0, 0]]
    for row in range(side):
        for column in range(side):
            pixels = image[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            position = encoder.tokens.positions[0, len(tokens)]
            tokens.append(affine(encoder.embed_patch, pixels.reshape(-1)) + position)
    stacked = torch.stack(tokens)
    for layer in range(layers):
        block = encoder.blocks[0 if shared else layer]
        stacked = through(block, stacked, heads_mixed=heads_mixed, last_gelu=shared)
    return normed(encoder.norm, stacked[0])


def drawn(model: nn.Module) -> nn.Module:
    """In float64, with biases, norms and tokens that are not at their initial values, and larger weights."""
    generator = torch.Generator().manual_seed(0)
    model = initialise(model, generator).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.3)
    return model


@pytest.mark.parametrize("tokens", [1, 2, 5])
@pytest.mark.parametrize("heads_mixed", [False, True])
def test_attention_follows_the_formula(tokens: int, heads_mixed: bool) -> None:
    layer = drawn(Attention(WIDTH, HEADS, over_heads=heads_mixed))
    given = torch.randn(4, tokens, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    naive = over_heads if heads_mixed else over_tokens
    with torch.no_grad():
        torch.testing.assert_close(layer(given), torch.stack([naive(layer, one) for one in given]))


def test_attention_over_tokens_is_torchs_multi_head_attention() -> None:
    layer = drawn(Attention(WIDTH, HEADS, over_heads=False))
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=torch.float64)
    state = {
        "in_proj_weight": layer.query_key_value.weight, "in_proj_bias": layer.query_key_value.bias,
        "out_proj.weight": layer.output.weight, "out_proj.bias": layer.output.bias,
    }  # fmt: skip
    theirs.load_state_dict(state)
    given = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(layer(given), theirs(given, given, given)[0])


@pytest.mark.parametrize("heads_mixed", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_embeddings_follow_the_formula(shared: bool, heads_mixed: bool) -> None:
    encoder = drawn(
        ViT(channels=3, size=8, patch=4, width=WIDTH, heads=HEADS, layers=2, shared=shared, over_heads=heads_mixed)
    )
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        expected = [
            embedding(encoder, image, patch=4, layers=2, heads_mixed=heads_mixed, shared=shared) for image in images
        ]
        torch.testing.assert_close(encoder(images), torch.stack(expected))


def test_a_shared_blocks_gradient_is_the_sum_over_its_layers() -> None:
    sizes = {"channels": 1, "size": 8, "patch": 4, "width": WIDTH, "heads": HEADS, "over_heads": False}
    shared = drawn(ViT(**sizes, layers=3, shared=True))
    apart = ViT(**sizes, layers=3, shared=False).double()
    for block in apart.blocks:
        block.last_gelu = True
    state = shared.state_dict()
    copies = {name.replace("blocks.0", f"blocks.{n}"): tensor for n in range(3) for name, tensor in state.items()}
    apart.load_state_dict(copies)
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for model in (shared, apart):
        model(images).pow(3).sum().backward()
    for name, parameter in shared.blocks[0].named_parameters():
        expected = sum(block.get_parameter(name).grad for block in apart.blocks)
        torch.testing.assert_close(parameter.grad, expected)
