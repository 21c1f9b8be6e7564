"""Several views of an image through one network."""

from __future__ import annotations

import torch

from rt_scale.models.networks import to_device
from tests.unit.models.networks import draw, same


def test_views_of_one_size_are_one_batch_and_all_views_one_batch_of_the_projector() -> None:
    network = draw(0, projector={"hidden": [6], "bottleneck": 3, "out_dim": 5, "batch_norm": True}).train()
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(3, 1, size, size, generator=generator) for size in (8, 8, 6, 6, 6)]
    batches: list[torch.Size] = []
    network.encoder.register_forward_pre_hook(lambda module, given: batches.append(given[0].shape))
    logits = network.of_views(views)
    assert batches == [(6, 1, 8, 8), (9, 1, 6, 6)]
    again = draw(0, projector={"hidden": [6], "bottleneck": 3, "out_dim": 5, "batch_norm": True}).train()
    embeddings = torch.cat([again.encoder(torch.cat(views[:2])), again.encoder(torch.cat(views[2:]))])
    torch.testing.assert_close(logits, again.projector(embeddings), rtol=0, atol=0)
    assert same(network, again)
    network.eval()
    torch.testing.assert_close(network.of_views(views), torch.cat([network(view) for view in views]))
    features = torch.cat([network.features(view) for view in views])
    torch.testing.assert_close(network.features_of_views(views), features)


def test_rows_are_in_the_order_of_the_views_whatever_their_sizes() -> None:
    network = draw(0).eval()
    views = [torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(size)) for size in (6, 8, 6)]
    torch.testing.assert_close(network.of_views(views), torch.cat([network(view) for view in views]))


def test_one_view_is_not_copied() -> None:
    network, view = draw(0).eval(), torch.randn(2, 1, 8, 8)
    seen: list[torch.Tensor] = []
    network.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    assert torch.equal(network.of_views((view,)), network(view))
    assert seen[0] is view


def test_views_together_keep_their_memory_format() -> None:
    network = to_device(draw(0, encoder={"name": "convnet_4_2", "norm": "batch"}), "cpu").eval()
    layouts: list[bool] = []
    network.encoder.register_forward_pre_hook(
        lambda module, given: layouts.append(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    view = torch.randn(2, 1, 8, 8).contiguous(memory_format=torch.channels_last)
    network.of_views([view, view])
    assert layouts == [True]
