"""Vision transformers (Dosovitskiy et al. 2020), and the variant of table 5."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from rt_scale.models.encoder import Encoder

_MLP_RATIO = 4


class Attention(nn.Module):
    """Multi-head self-attention of tokens of ``width`` D, with biases and scale 1 / sqrt(width of a head).

    Over tokens, each head attends to the tokens of an image. Over heads, as in the code behind table 5, each token
    attends to its own heads. The result [N, heads, D / heads] is then transposed to [heads, N, D / heads] and reshaped
    to [N, D]; only this exchanges numbers between tokens, and so lets the class token depend on the image.
    """

    def __init__(self, width: int, heads: int, *, over_heads: bool) -> None:
        super().__init__()
        self.heads = heads
        self.over_heads = over_heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, D] of tokens [B, N, D]."""
        parts = self.query_key_value(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        if self.over_heads:
            mixed = scaled_dot_product_attention(*parts).transpose(1, 2).reshape(tokens.shape)
        else:
            query, key, value = (part.transpose(1, 2) for part in parts)
            mixed = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        output: Tensor = self.output(mixed)
        return output


class Block(nn.Module):
    """A pre-norm transformer block: attention and an MLP of 4 times the width, whose output GELU is optional."""

    def __init__(self, width: int, heads: int, *, over_heads: bool, last_gelu: bool) -> None:
        super().__init__()
        self.last_gelu = last_gelu
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, over_heads=over_heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, _MLP_RATIO * width)
        self.contract = nn.Linear(_MLP_RATIO * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, D] of tokens [B, N, D]."""
        tokens = tokens + self.attention(self.attention_norm(tokens))
        hidden = self.contract(gelu(self.expand(self.mlp_norm(tokens))))
        return tokens + (gelu(hidden) if self.last_gelu else hidden)


class Tokens(nn.Module):
    """Prepends a learned class token to the ``patches`` of an image and adds learned positions."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + patches, width))

    def forward(self, patches: Tensor) -> Tensor:
        """Tokens [B, 1 + N, D] of embedded patches [B, N, D]."""
        return torch.cat([self.class_token.expand(patches.shape[0], -1, -1), patches], dim=1) + self.positions


class ViT(Encoder):
    """A vision transformer of pre-norm blocks; the embedding is the class token after the last layer norm.

    Args:
        channels: of the images.
        size: side of the images in pixels, a multiple of ``patch``.
        patch: side of a patch in pixels.
        width: D, of a token.
        layers: number of blocks in the forward pass.
        shared: whether all blocks share one set of weights and end in a GELU, as in the published variant.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        patch: int,
        width: int,
        heads: int,
        layers: int,
        shared: bool,
        over_heads: bool,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.layers = layers
        self.embed_patch = nn.Linear(channels * patch**2, width)
        self.tokens = Tokens((size // patch) ** 2, width)
        # One module for a shared block, so that a checkpoint has each weight once.
        self.blocks = nn.ModuleList(
            Block(width, heads, over_heads=over_heads, last_gelu=shared) for _ in range(1 if shared else layers)
        )
        self.norm = nn.LayerNorm(width)
        self.embed_dim = width

    def layer_modules(self) -> list[nn.Module]:
        """The blocks; a shared one is called once a layer."""
        return list(self.blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [B, D] of images [B, C, size, size]."""
        tokens = self.tokens(self.embed_patch(cut(images, self.patch)))
        for layer in range(self.layers):
            tokens = self.blocks[layer % len(self.blocks)](tokens)
        # Layer norm acts on each token separately.
        embedding: Tensor = self.norm(tokens[:, 0])
        return embedding


def cut(images: Tensor, patch: int) -> Tensor:
    """Patches [B, N, C patch patch] of images [B, C, H, W], laid out as a convolution's weight [C, patch, patch]."""
    batch, channels, height, width = images.shape
    patches = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch**2)
