from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from condensery.contract import Method, hookimpl
from condensery.errors import NotApplicable
from condensery.nets import QUANTIZE, WEIGHTED, attached, latent_of
from condensery.run import Stage
from condensery_plugins.quantization.calibration import SAMPLES, plan_bits, refuse_quantized
from condensery_plugins.quantization.folded_layers import Folded, FoldedConv2d, FoldedLinear, Plan, geometry_of
from condensery_plugins.quantization.tracing import Site, trace


@dataclass(eq=False, kw_only=True)
class JacobIntegerOnly(Method):
    """Train a net with the rounding of integer arithmetic, so that it runs in 8-bit codes and int32 accumulators.

    Jacob, Kligys, Chen, Zhu, Tang, Howard, Adam, Kalenichenko: "Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference", CVPR 2018 [23]. Batch normalization is folded into the layer before
    it (section 3.2); weights are held on their own range, activations on a moving average of theirs (section 3.1).
    ``delay`` counts steps until activations are quantized; from the share ``freeze_after`` of the stage on, batch
    normalization uses its averages.
    """

    key = "jacob-integer-only"

    needs = frozenset({"float-weights"})
    leaves = frozenset({"quantized-weights", "quantized-activations"})
    removes = frozenset({"float-weights", "batch-norm"})

    weight_bits: int = 8
    activation_bits: int = 8
    edge_bits: int = 8
    ema_decay: float = 0.99
    delay: int = 0
    freeze_after: float = 0.8

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Put folded layers in the plain ones' places, and start their ranges on sampled data."""
        net = stage.student.module
        sites = trace(net, lambda: _play(stage, net, 2))
        if not sites:
            raise NotApplicable("jacob-integer-only", "the net calls no plain Conv2d or Linear layer")
        _refuse_quantized(stage)
        weights = plan_bits(stage, self.weight_bits, self.edge_bits)
        inputs = plan_bits(stage, self.activation_bits, self.edge_bits)
        sources = {p: s.source for p, s in sites.items() if s.source is not None}
        outputs = dict.fromkeys(sites, self.activation_bits) | {stage.edges()[1]: self.edge_bits}
        outputs |= {source: max(inputs[p] for p in sources if sources[p] == source) for source in sources.values()}
        self.layers: dict[str, Folded] = {}
        for path, site in sites.items():
            plan = Plan(
                weight_bits=weights[path],
                input_bits=outputs[sources[path]] if path in sources else inputs[path],
                output_bits=None if site.shaped else outputs[path],
                activation=site.activation,
                linked=path in sources,
                ema_decay=self.ema_decay,
            )
            self.layers[path] = _fold(stage, path, site, plan)
        self.links = [(self.layers[a], self.layers[b]) for b, a in sources.items()]
        self._calibrate(stage, net)
        self._set(active=self.delay == 0, batches=self.freeze_after > 0)

    def _calibrate(self, stage: Stage, net: nn.Module) -> None:
        """Let the ranges see some examples while everything else is in eval mode."""
        self._set(active=False, batches=False)
        _play(stage, net, SAMPLES, list(self.layers.values()))
        self._link()

    def _set(self, *, active: bool, batches: bool, ranges: bool = True) -> None:
        self.mode = (active, batches)
        for layer in self.layers.values():
            layer.active, layer.follows_batches, layer.follows_ranges = active, batches, ranges

    def _link(self) -> None:
        """Give each layer whose input is another one's output that one's range."""
        for source, layer in self.links:
            assert source.output_range is not None
            layer.input_range.take(source.output_range)

    @hookimpl
    def before_step(self, stage: Stage) -> None:
        """Switch activation quantizers on, and batch statistics off, when it's time."""
        total = stage.epochs * stage.steps_per_epoch
        mode = (stage.step >= self.delay, stage.step < self.freeze_after * total)
        if mode != self.mode:
            self._set(active=mode[0], batches=mode[1])

    @hookimpl
    def after_epoch(self) -> None:
        """Let linked layers agree before the net is evaluated."""
        self._link()

    @hookimpl
    def end_stage(self) -> None:
        """Hold ranges and statistics; everything is quantized from here on."""
        self._link()
        self._set(active=True, batches=False, ranges=False)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return how many layers run in integers, and how wide their accumulators get at worst."""
        layers = list(self.layers.values())
        plain = [m for m in stage.student.module.modules() if isinstance(m, WEIGHTED) and not isinstance(m, Folded)]
        widest = max(float(layer.numbers().reach) for layer in layers)
        return {
            "integer_layers_count": float(len(layers)),
            "float_layers_count": float(len(plain)),
            "folded_norms_count": float(sum(layer.plan.eps is not None for layer in layers)),
            "requantized_layers_count": float(sum(layer.output_range is not None for layer in layers)),
            "accumulator_bits": math.log2(max(1.0, widest)) + 1,
        }


def _refuse_quantized(stage: Stage) -> None:
    """Refuse a net on which another quantizer is.

    :raises NotApplicable: naming the layer.
    """
    for weight in stage.weights():
        refuse_quantized("jacob-integer-only", weight)
    for item in attached(stage.student.module):
        if item.target.partition(":")[2] and item.transform.rank == QUANTIZE:
            raise NotApplicable("jacob-integer-only", f"an activation is quantized already: {item.target!r}")


def _play(stage: Stage, net: nn.Module, n: int, training: list[Folded] | None = None) -> None:
    """Play some examples in eval mode, but for some layers; modes stay as they were."""
    modes = {m: m.training for m in net.modules()}
    net.eval()
    for layer in training or ():
        layer.train()
    with torch.no_grad():
        for batch in stage.sample(n):
            stage.task.logits(net, batch.inputs)
    for module, mode in modes.items():
        module.training = mode


def _fold(stage: Stage, path: str, site: Site, plan: Plan) -> Folded:
    """Put a folded layer in a plain one's place, and nothing in its norm's; transforms on both move with them."""
    net = stage.student.module
    old = net.get_submodule(path)
    assert isinstance(old, (nn.Conv2d, nn.Linear))
    norm = None if site.norm is None else net.get_submodule(site.norm)
    if norm is not None:
        assert isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d))
        assert norm.momentum is not None
        plan = dataclasses.replace(plan, eps=norm.eps, momentum=norm.momentum)
    made = FoldedLinear if isinstance(old, nn.Linear) else FoldedConv2d
    new: Folded = made(geometry_of(old), dataclasses.asdict(plan))
    names = {f"{path}.weight": "weight", f"{path}.bias": "bias", f"{path}:input": ":input", f"{path}:output": ":output"}
    new.weight = latent_of(old, "weight")
    if new.bias is not None:
        new.bias = latent_of(old, "bias")
    if norm is not None:
        new.gamma, new.beta = latent_of(norm, "weight"), latent_of(norm, "bias")
        for mine, theirs in ((new.running_mean, norm.running_mean), (new.running_var, norm.running_var)):
            assert isinstance(theirs, Tensor)
            mine.copy_(theirs)
        names |= {f"{site.norm}.weight": "gamma", f"{site.norm}.bias": "beta"}
    moving = [item for item in attached(net) if item.target in names]
    for where, module in list(net.named_modules(remove_duplicate=False)):
        if module is old:
            stage.replace(where, new.train(old.training))
        elif module is norm:
            stage.replace(where, nn.Identity())
    for item in moving:
        tensor = names[item.target]
        target = f"{path}{tensor}" if tensor.startswith(":") else f"{path}.{tensor}"
        stage.attach(target, item.name, item.transform, keep=item.keep)
    return new
