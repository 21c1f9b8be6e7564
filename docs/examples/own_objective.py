"""An objective of one's own: a function of the logits of student and teacher.

rt-scale run own_objective.yaml
"""

import torch
from torch import Tensor


def renyi(student: Tensor, teacher: Tensor, order: float = 2.0) -> Tensor:
    """Rényi divergence of the teacher's softmax from the student's, in nats; ``order`` 1 would be KL.

    Logits are [B, m], after temperature and centring. An objective gives the mean over images; with several views of an
    image rt-scale calls it for each pair of views and takes the mean.
    """
    p, q = torch.log_softmax(teacher, dim=1), torch.log_softmax(student, dim=1)
    return torch.logsumexp(order * p + (1 - order) * q, dim=1).mean() / (order - 1)
