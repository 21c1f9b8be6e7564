"""The images of a run, and how training images are augmented."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rt_scale.plugins import is_reference
from rt_scale.spec.part import MOST, DataName, Part, Plugged, added, changed, data_name

GAUSSIAN = "gaussian"
"""The data set of Gaussian noise, which needs no preparation."""

BUILT_IN = (
    *("digits", "mnist", "fashion_mnist", "cifar10", "cifar5m", "cifar100", "stl10", "stl10_unlabeled"),
    *("tiny_imagenet", GAUSSIAN),
)
"""Names of data sets that no plugin has."""

LEAST_SIZE, LARGEST_SIZE = 4, 512
"""Range of the side that images can be resized to, in pixels."""


class DataSpec(Plugged):
    """The images that the student is distilled and probed on."""

    name: DataName
    """Name of a prepared data set (`rt-scale data list`), or gaussian: noise inputs (paper, figure 4). In a file also
    that of a plugin, e.g. my_package.data:Shapes."""
    reader: str | None = added(None)
    """The plugin that gives the images; filled in when a file names it, as is the name of its prepared set."""
    size: int | None = Field(None, ge=LEAST_SIZE, le=LARGEST_SIZE)
    """Side in pixels to which the device resizes images (bilinear, antialiased); null: as prepared."""
    samples: int | None = Field(None, ge=1, le=MOST)
    """Training images used: a class-balanced subset, nested for one data seed; null: all."""
    sigma: float | None = added(None, gt=0)
    """gaussian only: standard deviation of every input value; default 1."""
    channels: Literal[1, 3] | None = added(None)
    """gaussian only: channels of an input; default 3."""

    @property
    def plugin(self) -> str | None:
        """The plugin that gives the images, if any."""
        return self.reader

    @model_validator(mode="after")
    def _name_of_its_own(self) -> DataSpec:
        reader = self.reader
        if reader is None:
            return self
        if not is_reference(reader) or self.name != data_name(reader, self.args, self.source or ""):
            raise ValueError(f"'{self.name}' is not the data set of {reader}: write data.name: {reader}")
        return self

    @model_validator(mode="after")
    def _noise(self) -> DataSpec:
        if self.name == GAUSSIAN:
            missing = [name for name in ("size", "samples") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"gaussian inputs are drawn, so {' and '.join(missing)} must be given")
            self.__dict__["sigma"] = 1.0 if self.sigma is None else self.sigma
            self.__dict__["channels"] = self.channels or 3
            return self
        given = [name for name in ("sigma", "channels") if getattr(self, name) is not None]
        if given:
            raise ValueError(
                f"{' and '.join(given)} belong to data.name: gaussian; '{self.name}' has its own, so leave them out"
            )
        return self


Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Side = Annotated[int, Field(ge=4, le=512)]


def _ordered(name: str, bounds: tuple[float, float], largest: float) -> None:
    low, high = bounds
    if not 0 < low <= high <= largest:
        raise ValueError(f"{name} must be two numbers, 0 < least <= largest <= {largest}; given: {low}, {high}")


class JitterSpec(Part):
    """Random brightness, contrast, saturation and hue, in a random order for each view of each image.

    Saturation and hue do not change images of one channel.
    """

    probability: Probability = 0.8
    """Share of the views that are jittered; 0 to 1."""
    brightness: float = Field(0.4, ge=0)
    """The factor is uniform in [max(0, 1 - brightness), 1 + brightness]; >= 0."""
    contrast: float = Field(0.4, ge=0)
    """Like brightness, for the distance from the mean grey; >= 0."""
    saturation: float = Field(0.2, ge=0)
    """Like brightness, for the distance from each pixel's grey; >= 0."""
    hue: float = Field(0.1, ge=0, le=0.5)
    """The hue rotates by a share of the colour circle, uniform in [-hue, hue]; 0 to 0.5."""


class BlurSpec(Part):
    """Gaussian blur, with a random standard deviation for each blurred view."""

    first: Probability = 1.0
    """Share of first global views that are blurred; 0 to 1."""
    others: Probability = 0.1
    """Share of the other global views that are blurred; 0 to 1."""
    local: Probability = 0.5
    """Share of local views that are blurred; 0 to 1."""
    sigma: tuple[float, float] = Field((0.1, 2.0), strict=False)
    """Least and largest standard deviation, in pixels of the view; above 0, at most 16."""

    @model_validator(mode="after")
    def _range(self) -> BlurSpec:
        _ordered("sigma", self.sigma, 16)
        return self


class AugmentSpec(Part):
    """How training images are augmented; probed images never are.

    The defaults of ``multicrop`` are those of DINO's published code (2 + 10 views: paper, appendix E), but the sides
    are for 32 x 32 images, not for ImageNet.
    """

    kind: Literal["none", "crop_flip", "multicrop"] = "none"
    """none, crop_flip (supervised recipe: padded crop and flip) or multicrop (global and local views)."""
    padding: int = Field(4, ge=0, le=64)
    """crop_flip only: black pixels added to each side before a crop of the original size; 0 to 64."""
    flip: Probability = 0.5
    """Share of the views that are mirrored left to right; 0 to 1."""
    global_views: int = Field(2, ge=1, le=16)
    """Large views of each image; 1 to 16."""
    local_views: int = Field(10, ge=0, le=64)
    """Small views of each image; 0 to 64."""
    global_size: Side = 32
    """Side of the global views in pixels; 4 to 512."""
    local_size: Side = 16
    """Side of the local views in pixels; 4 to 512 (VGGs need 32)."""
    global_scale: tuple[Share, Share] = Field((0.4, 1.0), strict=False)
    """Least and largest share of the image's area that a global view shows; above 0, at most 1."""
    local_scale: tuple[Share, Share] = Field((0.05, 0.4), strict=False)
    """Least and largest share of the image's area that a local view shows; above 0, at most 1."""
    ratio: tuple[float, float] = Field((3 / 4, 4 / 3), strict=False)
    """Least and largest width / height of a crop, uniform in its logarithm; above 0, at most 16."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """How crops are resized: bicubic (as in DINO) or bilinear, both antialiased."""
    jitter: JitterSpec = JitterSpec()
    """Random colours."""
    grayscale: Probability = 0.2
    """Share of the views that lose their colour; 0 to 1."""
    blur: BlurSpec = BlurSpec()
    """Gaussian blur."""
    solarize: Probability = 0.2
    """Share of the global views after the first that are solarised; 0 to 1."""
    solarize_threshold: float = Field(128 / 255, ge=0, le=1)
    """Pixel values from this threshold up are inverted; 0 to 1."""

    @model_validator(mode="after")
    def _ranges(self) -> AugmentSpec:
        _ordered("global_scale", self.global_scale, 1)
        _ordered("local_scale", self.local_scale, 1)
        _ordered("ratio", self.ratio, 16)
        return self

    @model_validator(mode="after")
    def _of_this_kind(self) -> AugmentSpec:
        """Equal runs have equal names: a field that the kind does not use must keep its default."""
        used = _USED[self.kind]
        idle = [name for name in type(self).model_fields if name not in {"kind", *used} and changed(self, name)]
        if idle:
            takes = ", ".join(sorted(used)) or "no other field"
            raise ValueError(f"kind {self.kind} does not use {', '.join(idle)}; it takes {takes}")
        return self


_USED: dict[str, set[str]] = {
    "none": set(),
    "crop_flip": {"padding", "flip"},
    "multicrop": set(AugmentSpec.model_fields) - {"kind", "padding"},
}
