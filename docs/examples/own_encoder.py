"""An encoder of one's own: any module from images [B, C, H, W] to embeddings [B, D].

rt-scale run own_encoder.yaml
"""

from torch import Tensor, nn


class Tiny(nn.Module):
    """Three convolutions, then the mean over positions.

    rt-scale gives ``channels`` because it is in the signature (``size`` would be the images' side in pixels); ``width``
    and ``dropout`` come from ``encoder.args``.
    """

    def __init__(self, channels: int, width: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Dropout(dropout),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [B, 4 width]."""
        return self.layers(images).mean(dim=(2, 3))
