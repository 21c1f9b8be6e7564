"""A network of another run, which an analysis reads."""

from __future__ import annotations

from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.networks import Taken


class NetworkOf(Taken):
    """A network of a run; read it with ``experiments.dependencies.weights_of``.

    The run is executed first, once, unless only init or a teacher that never moves is taken.
    """


NetworkOf.model_rebuild(_types_namespace={"TrainingSpec": TrainingSpec})
