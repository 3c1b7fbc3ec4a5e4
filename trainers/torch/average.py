"""A network whose weights are the mean of a training's last ones."""

import copy
from typing import Any

import torch


class Average:
    """Follows a network that learns: of each step a share of the weights, the rest as it was.

    Early on the share is greater, so that what the training began with is soon forgotten. Running means of
    BatchNorms are followed too; what is not a floating number is taken over.

    Parameters
    ----------
    network : torch.nn.Module
        To be followed, from its present weights on.
    decay : float
        What stays of a step once there were many, e.g. 0.999.
    """

    def __init__(self, network: torch.nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def follow(self, network: torch.nn.Module) -> None:
        """Take over a share of the network's weights."""
        self.steps += 1
        share = 1 - min(self.decay, self.steps / (self.steps + 9))
        mine, theirs = list(self.network.state_dict().values()), list(network.state_dict().values())
        pairs = list(zip(mine, theirs, strict=True))
        followed = [(a, b) for a, b in pairs if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in followed], [b for _, b in followed], share)
        for a, b in pairs:
            if not a.is_floating_point():
                a.copy_(b)

    def state(self) -> dict[str, Any]:
        """Return what `restore` takes."""
        return {"network": self.network.state_dict(), "steps": self.steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.network.load_state_dict(state["network"])
        self.steps = int(state["steps"])
