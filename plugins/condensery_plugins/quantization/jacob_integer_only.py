from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from condensery import Method, NotApplicable, Stage, hookimpl
from condensery.nets import QUANTIZE, attached, evaluating, owner_of
from condensery_plugins.quantization.calibration import SAMPLES, plan_bits, refuse_quantized
from condensery_plugins.quantization.folded_layers import Folded, Plan, fold, lies_across, turned, upright
from condensery_plugins.quantization.tracing import Site, trace


@dataclass(eq=False, kw_only=True)
class JacobIntegerOnly(Method):
    """Train a net with the rounding of integer arithmetic, so that it runs in 8-bit codes and int32 accumulators.

    Jacob, Kligys, Chen, Zhu, Tang, Howard, Adam, Kalenichenko: "Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference", CVPR 2018 [23]. Batch normalization is folded into the layer before
    it (section 3.2); weights are held on their own range, activations on a moving average of theirs (section 3.1).

    When: layers are replaced as the stage starts, and their ranges start from sampled examples. Activations stay float
    for ``delay`` steps; from the share ``freeze_after`` of the stage on, batch normalization uses its averages.

    End: ranges and averages stand still. The artifact holds layers that compute in whole numbers.

    Reach: convolutions of images, linear layers, and those of GPT-2. Other layers stay float, recurrent ones, attention
    of torch and transposed convolutions among them: the report counts them, and names each with its share.

    Raises NotApplicable on a net that is quantized already or isn't of float32, or that calls no plain convolution or
    linear layer.
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
        sites = trace(stage.student.module, lambda: stage.record_inputs([], 2))
        if not sites:
            raise NotApplicable(self.key, "the net calls no plain Conv2d or Linear layer")
        self._refuse_quantized(stage)

        sources = {path: site.source for path, site in sites.items() if site.source is not None}
        plans = self._plan(stage, sites, sources)
        self.layers = {path: _put(stage, path, site.norm, plans[path]) for path, site in sites.items()}
        self.links = [(self.layers[source], self.layers[path]) for path, source in sources.items()]
        self._calibrate(stage)
        self._set(active=self.delay == 0, batches=self.freeze_after > 0)

    def _refuse_quantized(self, stage: Stage) -> None:
        """Refuse a net on which another quantizer is."""
        for weight in stage.weights():
            refuse_quantized(self.key, weight)
            if weight.latent.dtype != torch.float32:
                raise NotApplicable(self.key, f"it computes in float32, and {weight.path!r} is {weight.latent.dtype}")
        for item in attached(stage.student.module):
            if ":" in item.target and item.transform.rank == QUANTIZE:
                raise NotApplicable(self.key, f"an activation is quantized already: {item.target!r}")

    def _plan(self, stage: Stage, sites: dict[str, Site], sources: dict[str, str]) -> dict[str, Plan]:
        """Return what each layer quantizes: the layer that takes codes decides how wide they are.

        :param sources: by layer, the one whose output is its input.
        """
        weights = plan_bits(stage, self.weight_bits, self.edge_bits)
        inputs = plan_bits(stage, self.activation_bits, self.edge_bits)
        outputs = dict.fromkeys(sites, self.activation_bits) | {stage.edges()[1]: self.edge_bits}
        for source in sources.values():
            outputs[source] = max(inputs[path] for path in sources if sources[path] == source)

        return {
            path: Plan(
                weight_bits=weights[path],
                input_bits=outputs[sources[path]] if path in sources else inputs[path],
                output_bits=None if site.shaped else outputs[path],
                activation=site.activation,
                linked=path in sources,
                ema_decay=self.ema_decay,
            )
            for path, site in sites.items()
        }

    def _calibrate(self, stage: Stage) -> None:
        """Let the ranges see some examples while everything else is in eval mode."""
        self._set(active=False, batches=False)
        net = stage.student.module
        with evaluating(net), torch.no_grad():
            for layer in self.layers.values():
                layer.train()
            for batch in stage.sample(SAMPLES):
                stage.task.outputs(net, batch)
        self._link()

    def _set(self, *, active: bool, batches: bool, ranges: bool = True) -> None:
        """Say for all layers what is quantized and what follows the batches."""
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
        active, batches = stage.step >= self.delay, stage.step < self.freeze_after * total
        if (active, batches) != self.mode:
            self._set(active=active, batches=batches)

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
        weights = stage.weights()
        whole = [w for w in weights if isinstance(w.module, Folded)]
        widest = max(float(layer.numbers().reach) for layer in layers)
        return {
            "integer_layers_count": float(len(layers)),
            "float_layers_count": float(len({w.path for w in weights}) - len(layers)),
            "folded_norms_count": float(sum(layer.plan.eps is not None for layer in layers)),
            "requantized_layers_count": float(sum(layer.output_range is not None for layer in layers)),
            "accumulator_bits": math.log2(max(1.0, widest)) + 1,
            **stage.reached(whole),
        }


def _put(stage: Stage, path: str, norm_path: str | None, plan: Plan) -> Folded:
    """Put a folded layer in a plain one's place, and nothing in its norm's; transforms on both move with them."""
    net = stage.student.module
    layer, norm = net.get_submodule(path), None if norm_path is None else net.get_submodule(norm_path)
    across = lies_across(layer)
    plain = upright(layer) if across else layer
    assert isinstance(plain, (nn.Conv2d, nn.Linear))
    assert isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d, type(None)))
    new = fold(plain, norm, plan)

    # Collected before the places change: a transform is found by the module that it sits on.
    moving = [item for item in attached(net) if owner_of(net, item.target)[0] in (layer, norm)]
    for where, module in list(net.named_modules(remove_duplicate=False)):
        if module is layer:
            stage.replace(where, new)
        elif module is norm:
            stage.replace(where, nn.Identity())

    weight = f"{path}.weight"
    renamed = {f"{norm_path}.weight": f"{path}.gamma", f"{norm_path}.bias": f"{path}.beta"}
    for item in moving:
        if across and item.target == weight:
            item.transform.resize(turned)
        stage.attach(renamed.get(item.target, item.target), item.name, item.transform, keep=item.keep)
    carried = stage.student.carried
    if across and weight in carried:
        values = carried[weight].items()
        carried[weight] = {n: turned(v) if isinstance(v, Tensor) and v.dim() else v for n, v in values}
    return new
