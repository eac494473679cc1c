"""A gradient code in a training loop of one's own: a communication hook of torch's DistributedDataParallel.

Torch looks at the classes in a hook's annotations, so that they aren't deferred here.
"""

import torch
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket

from condensery.recipe import ModelSpec
from condensery.run import Bucket, Exchanged, Player, Processes, Workers
from condensery_plugins.quantization.gradient_codes.gradient_code import GradientCode


class CommunicationHook:
    """Sends the gradients of one net in the codes of a method.

    ``net = DistributedDataParallel(net); net.register_comm_hook(hook, send)``. What the workers keep
    is the method's ``state()``, which belongs into a checkpoint.

    :param method: of its own for each net; what it keeps is by parameter.
    :param net: before it is wrapped.
    :param optimizer: that steps; ``method.optimizer(player=hook.player, groups=...)`` makes it where a method needs its
        own.

    ``exchanged`` counts the bytes that this process sends.
    """

    def __init__(self, method: GradientCode, net: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        self.method = method
        self.player = Player("student", net, spec=ModelSpec(key="given"), trains=True)
        self.player.optimizer = optimizer
        self.workers, self.exchanged = Workers(1, Processes.joined()), Exchanged()
        self.names = {id(parameter): name for name, parameter in net.named_parameters()}
        method.start(self.workers)


def send(hook: CommunicationHook, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """Put what the workers agree on into one of torch's buckets."""
    for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
        name = hook.names[id(parameter)]
        one = Bucket(name, parameter.shape, gradient.flatten()[None], hook.workers)
        gradient.copy_(hook.method.exchange(player=hook.player, bucket=one).view_as(gradient))
        hook.exchanged.count(one)

    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done
