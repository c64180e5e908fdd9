"""The tuning policy of a forward pass, held for its backward pass.

Autograd runs the backward pass of a GPU on a thread of its own, which knows nothing of the policies
in force where the forward pass was called.
"""

import functools
from collections.abc import Callable
from typing import Any

from autotune import policy
from autotune.policies import current


def hold_policy(ctx: Any) -> None:
    """Note the policy in force: part of every `forward`."""
    ctx.policy = current()


def under_forwards_policy(backward: Callable[..., Any]) -> Callable[..., Any]:
    """`backward` under the policy that its `forward` noted."""

    @functools.wraps(backward)
    def run(ctx: Any, *grads: Any) -> Any:
        if ctx.policy == current():
            return backward(ctx, *grads)
        with policy(ctx.policy):
            return backward(ctx, *grads)

    return run
