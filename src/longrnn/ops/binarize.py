"""Rounding that training can pass through."""

from torch import Tensor


def binarize(p: Tensor) -> Tensor:
    r"""Round probabilities to 0 or 1, with the gradient of the identity.

    $$ u = \operatorname{round}(p), \qquad \partial u / \partial p := 1 $$

    A tie rounds to 0, as in the original's code: ½ does not yet update.

    Args:
        p: Numbers in [0, 1], of any shape.

    Returns:
        0 and 1, of the shape and dtype of `p`.

    Reference:
        Campos et al., Skip RNN, ICLR 2018, https://arxiv.org/abs/1708.06834, section 3; the
        straight-through estimator is of Bengio et al., 2013, https://arxiv.org/abs/1308.3432.

    Example:
        >>> import torch
        >>> p = torch.tensor([0.2, 0.5, 0.7], requires_grad=True)
        >>> u = binarize(p)
        >>> u.sum().backward()
        >>> u.tolist(), p.grad.tolist()
        ([0.0, 0.0, 1.0], [1.0, 1.0, 1.0])
    """
    return p.round().detach() + (p - p.detach())
