"""Equal work, on the CPU and on a GPU: single steps from the other side's weights, and a loss curve from given ones.

The caller decides where (`Side.device`, as PyTorch names it) and how (`Side.step_of`) a step is made.
"""

import collections
import contextlib
import json
import sys

import torch

import models

Side = collections.namedtuple("Side", ["device", "step_of"])


def load(path, side):
    # the only user of the package
    from safetensors.torch import load_file

    return load_file(path, side.device)


@contextlib.contextmanager
def without_tf32():
    """f32 as it is written: on a GPU products of matrices have 11 bits where TF32 is allowed."""
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    allowed = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield
    for backend, before in zip(backends, allowed):
        backend.allow_tf32 = before


def precision_of(text):
    """`bf16-nhwc` -> (autocast, channels_last)."""
    dtype, layout = text.split("-")
    return dtype == "bf16", layout == "nhwc"


def network_of(arguments, side, batches, state, precision):
    """A network on given weights, and its step."""
    bf16, channels_last = precision_of(precision)
    model = models.build(arguments.model, arguments.classes, batches["images"].shape[2])
    model = models.set_statistics(model, 0.1).to(side.device)
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        sys.exit(f"weights do not fit: missing {missing}, unexpected {unexpected}")
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), arguments.learning_rate, momentum=0.9, fused=True)
    return model, side.step_of(model.train(), optimizer, bf16)


def other_layout(precision):
    """The same arithmetic in another order: how far apart PyTorch and PyTorch are."""
    return precision.replace("nchw", "nhwc") if precision.endswith("nchw") else precision.replace("nhwc", "nchw")


def curve(arguments, side, batches, start, precision):
    """Losses of all steps, each from where the one before led to."""
    _, step = network_of(arguments, side, batches, start, precision)
    return [float(step(*batch)) for batch in zip(batches["images"], batches["labels"])]


def distance(found, expected):
    """Length of the difference over length of what is expected, over all tensors."""
    squares = sum(float((found[name] - expected[name]).double().square().sum()) for name in expected)
    return (squares / sum(float(tensor.double().square().sum()) for tensor in expected.values())) ** 0.5


def steps(arguments, side):
    """One step for each line `step` on stdin, each from the weights that the other side began it with.

    Says the loss, how far the other side's gradients are from these, how far the weights and moving statistics that it
    continued with are from those that the step before led to here; and, as `own_`, how far PyTorch in another layout is from
    these. In bf16 also how far the gradients of either side are from those in f32. `curve`: the losses of free-running
    training, here and in another layout.
    """
    batches = load(arguments.batches, side)
    start = load(arguments.weights, side)
    model, step = network_of(arguments, side, batches, start, arguments.precision)
    twin, twin_step = network_of(arguments, side, batches, start, other_layout(arguments.precision))
    bf16, _ = precision_of(arguments.precision)
    exact, exact_step = network_of(arguments, side, batches, start, "f32-nchw") if bf16 else (None, None)
    print(json.dumps({"ready": True}), flush=True)
    for number, line in enumerate(sys.stdin):
        if line.startswith("curve"):
            curves = {name: curve(arguments, side, batches, start, precision) for name, precision in (
                ("curve", arguments.precision), ("own_curve", other_layout(arguments.precision)))}
            print(json.dumps(curves), flush=True)
            break
        contents = load(arguments.state, side)
        gradients = {name[9:]: tensor for name, tensor in contents.items() if name.startswith("gradient/")}
        state = {name: tensor for name, tensor in contents.items() if not name.startswith("gradient/")}
        led_to, twin_led_to = ({name: tensor for name, tensor in network.state_dict().items() if name in state}
                               for network in (model, twin))
        found = {"state": distance(state, led_to), "own_state": distance(twin_led_to, led_to)}
        for network in (model, twin, exact) if bf16 else (model, twin):
            network.load_state_dict(state, strict=False)
        batch = batches["images"][number], batches["labels"][number]
        loss, twin_loss = float(step(*batch)), float(twin_step(*batch))
        own = {name: parameter.grad for name, parameter in model.named_parameters()}
        twins = {name: parameter.grad for name, parameter in twin.named_parameters()}
        found |= {"loss": loss, "own_loss": abs(twin_loss - loss) / abs(loss),
                  "gradient": distance(gradients, own), "own_gradient": distance(twins, own)}
        if bf16:
            with without_tf32():
                exact_step(*batch)
            truth = {name: parameter.grad for name, parameter in exact.named_parameters()}
            found |= {"error": distance(gradients, truth), "own_error": distance(own, truth)}
        print(json.dumps(found), flush=True)
