"""An optimizer and two extras as a package of somebody else offers them."""

import torch

from mofo.methods.part import OptimizerPart, Part, setting


class HeavyBall(OptimizerPart):
    """Gradient descent with momentum."""

    name = "heavy-ball"
    label = "Heavy ball"
    momentum: float = setting(0.0, "momentum", short="m", ge=0, lt=1)

    def build(self, model, setup):
        return torch.optim.SGD(model.parameters(), lr=self.learning_rate, momentum=self.momentum)


class Pull(Part):
    """Half the squared distance from the base, added to the loss."""

    name = "pull"
    label = "Pull"
    strength: float = setting(0.5, "weight of the penalty", short="s", ge=0)

    def penalty(self, model, step, setup):
        weights = ((p, setup.base[name].to(p.device)) for name, p in model.named_parameters())
        return self.strength / 2 * sum(((p - base) ** 2).sum() for p, base in weights)


class Halfway(Part):
    """The end of training, moved halfway back to the base."""

    name = "halfway"
    label = "Halfway"
    share: float = setting(1.0, "share of the way that is kept", ge=0, le=1)

    @torch.no_grad()
    def after_training(self, model, setup):
        trained = {name: p.clone() for name, p in model.named_parameters()}
        for name, p in model.named_parameters():
            p.copy_((trained[name] + setup.base[name]) / 2)
        yield {"share": 0.5}
        for name, p in model.named_parameters():
            p.copy_(trained[name])
