"""Writes models.json, the golden values of every network, from PyTorch and torchvision in float64.

Weights and inputs are filled by a formula of (name, index), so that no weight file is needed; the Rust test
(src/models/golden_tests.rs) fills its networks by the same formula and must agree. Nothing here imports the
project: the networks that torchvision has are torchvision's, the others are written from their descriptions.

    pip install torch==2.11.0 torchvision==0.26.0
    python make_goldens.py            # rewrites models.json beside this file, under a minute
    python make_goldens.py --check    # fails when the file differs from what this machine computes
"""

import argparse
import json
import pathlib
import sys

import numpy
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

NUM_SHOWN_DIGITS = 12


# ---- the formula


def fnv1a(name):
    state = 2166136261
    for byte in name.encode():
        state = ((state ^ byte) * 16777619) & 0xFFFFFFFF
    return state


def noise(name, count):
    """`count` numbers in [-1, 1): a 32-bit integer hash (lowbias32) of name and index, exact in float32."""
    x = numpy.arange(count, dtype=numpy.uint32) * numpy.uint32(0x9E3779B9) + numpy.uint32(fnv1a(name))
    x ^= x >> numpy.uint32(16)
    x *= numpy.uint32(0x7FEB352D)
    x ^= x >> numpy.uint32(15)
    x *= numpy.uint32(0x846CA68B)
    x ^= x >> numpy.uint32(16)
    return (x >> numpy.uint32(8)).astype(numpy.float64) / float(1 << 23) - 1.0


def filled(name, shape):
    """The value of a parameter, a batch normalisation statistic or an input."""
    values = noise(name, int(numpy.prod(shape)))
    if len(shape) >= 2 and name != "input":
        fan_in = numpy.prod(shape[1:])
        values = values * numpy.sqrt(3.0 / fan_in)
    elif name.endswith("running_var"):
        values = 1.0 + 0.25 * values
    elif name.endswith(".weight"):
        values = 1.0 + 0.1 * values
    elif name != "input":
        values = 0.1 * values
    return torch.from_numpy(values.astype(numpy.float32).astype(numpy.float64)).reshape(shape)


# ---- networks that torchvision does not have


class CifarBlock(nn.Module):
    """Two 3x3 convolutions; He et al. 2016 section 4.2, or the cosine-loss authors' variant (`wide`)."""

    def __init__(self, inputs, outputs, stride, wide):
        super().__init__()
        padding = 0 if stride == 2 and wide else 1
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding, bias=wide)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=wide)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.wide, self.extra = stride, wide, outputs - inputs

    def forward(self, x):
        # TensorFlow's 'same' padding of a strided convolution on an even side: one row below, one column to the right
        out = F.pad(x, (0, 1, 0, 1)) if self.stride == 2 and self.wide else x
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(out)))))
        if self.stride == 2:
            x = F.avg_pool2d(x, 2) if self.wide else x[:, :, ::2, ::2]
        if self.extra:
            x = F.pad(x, (0, 0, 0, 0, self.extra // 2, self.extra // 2))
        return F.relu(out + x)


class CifarResNet(nn.Module):
    def __init__(self, blocks, widths, wide, channels, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=wide)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs = widths[0]
        for stage, width in enumerate(widths):
            layers = []
            for block in range(blocks):
                layers.append(CifarBlock(inputs, width, 2 if stage > 0 and block == 0 else 1, wide))
                inputs = width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(inputs, outputs)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


class WideBlock(nn.Module):
    """Zagoruyko & Komodakis 2016, figure 1 (c), without dropout."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.downsample = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x):
        out = F.relu(self.bn1(x))
        shortcut = self.downsample(out) if self.downsample else x
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + shortcut


class WideResNet16(nn.Module):
    def __init__(self, factor, channels, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        inputs = 16
        for stage, width in enumerate((16 * factor, 32 * factor, 64 * factor)):
            stride = 2 if stage > 0 else 1
            blocks = WideBlock(inputs, width, stride), WideBlock(width, width, 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            inputs = width
        self.bn1 = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs, outputs)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


class Bottleneck(nn.Module):
    """`keras`: stride on the first 1x1, biases. `full`: 3x3 padded by 2, the shortcut's input by 1."""

    def __init__(self, inputs, width, stride, form):
        super().__init__()
        keras, full = form == "keras", form == "full"
        self.conv1 = nn.Conv2d(inputs, width, 1, stride if keras else 1, bias=keras)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1 if keras else stride, 2 if full else 1, bias=keras)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=keras)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride != 1 or inputs != 4 * width:
            shortcut = nn.Conv2d(inputs, 4 * width, 1, stride, bias=keras)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * width))
        self.border = 1 if full else 0

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        x = F.pad(x, (self.border,) * 4)
        return F.relu(out + (self.downsample(x) if self.downsample else x))


class ResNet50(nn.Module):
    def __init__(self, form, channels, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, 6 if form == "full" else 3, bias=form == "keras")
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(2, 2) if form == "full" else nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
            layers = []
            for block in range(blocks):
                layers.append(Bottleneck(inputs, width, 2 if stage > 0 and block == 0 else 1, form))
                inputs = 4 * width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(inputs, outputs)

    def forward(self, x):
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def torchvision_resnet(build):
    def make(channels, outputs):
        net = build(num_classes=outputs)
        if channels != 3:
            net.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        return net

    return make


def efficientnet(channels, outputs):
    # the random parts (dropout, stochastic depth) are off: they would need the same random numbers on both sides
    net = torchvision.models.efficientnet_b0(num_classes=outputs, dropout=0.0, stochastic_depth_prob=0.0)
    if channels != 3:
        net.features[0][0] = nn.Conv2d(channels, 32, 3, 2, 1, bias=False)
    return net


def cifar(blocks):
    return lambda channels, outputs: CifarResNet(blocks, (16, 32, 64), False, channels, outputs)


NETWORKS = {
    "resnet-8": cifar(1),
    "resnet-20": cifar(3),
    "resnet-32": cifar(5),
    "resnet-56": cifar(9),
    "resnet-110": cifar(18),
    "resnet-110-wfc": lambda channels, outputs: CifarResNet(18, (32, 64, 128), True, channels, outputs),
    "resnet-18": torchvision_resnet(torchvision.models.resnet18),
    "resnet-34": torchvision_resnet(torchvision.models.resnet34),
    "resnet-50": torchvision_resnet(torchvision.models.resnet50),
    "resnet-50-keras": lambda channels, outputs: ResNet50("keras", channels, outputs),
    "resnet-50-fconv": lambda channels, outputs: ResNet50("full", channels, outputs),
    "efficientnet-b0": efficientnet,
    "wide-resnet-16-2": lambda channels, outputs: WideResNet16(2, channels, outputs),
    "wide-resnet-16-8": lambda channels, outputs: WideResNet16(8, channels, outputs),
}

# Large networks get two images: their time is that of reading the weights, once for each image.
# network, batch, channels, side, outputs
CASES = [
    ("resnet-8", 4, 1, 8, 10),
    ("resnet-8", 4, 3, 32, 10),
    ("resnet-20", 4, 1, 28, 10),
    ("resnet-32", 4, 3, 16, 10),
    ("resnet-56", 4, 3, 16, 10),
    ("resnet-110", 4, 3, 16, 10),
    ("resnet-110-wfc", 2, 3, 16, 10),
    ("resnet-18", 4, 1, 28, 10),
    ("resnet-18", 2, 3, 48, 10),
    ("resnet-34", 2, 3, 48, 10),
    ("resnet-50", 2, 3, 48, 10),
    ("resnet-50-keras", 2, 3, 48, 10),
    ("resnet-50-fconv", 2, 3, 32, 10),
    ("efficientnet-b0", 2, 3, 48, 10),
    ("wide-resnet-16-2", 4, 1, 28, 10),
    ("wide-resnet-16-8", 2, 3, 16, 10),
]


# ---- one case


def digits(values):
    values = values.detach() if torch.is_tensor(values) else values
    return [float(f"{float(value):.{NUM_SHOWN_DIGITS}g}") for value in values]


def probe(name, tensor):
    """Inner product with noise of the tensor's name: unlike a norm it notices a transposed or shuffled tensor."""
    return (tensor.flatten() * torch.from_numpy(noise(name + ".probe", tensor.numel()))).sum().item()


def run(network, batch, channels, side, outputs):
    keras = network in ("resnet-110-wfc", "resnet-50-keras")
    eps, momentum = (1e-3, 0.01) if keras else (1e-5, 0.1)
    net = NETWORKS[network](channels, outputs).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = eps, momentum
    state = {name: tensor for name, tensor in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(filled(name, tuple(tensor.shape)))
    images = filled("input", (batch, channels, side, side))
    net.eval()
    with torch.no_grad():
        before = net(images)
    net.train()
    logits = net(images)
    (logits * torch.from_numpy(noise("cotangent", logits.numel())).reshape(logits.shape)).sum().backward()
    net.eval()
    with torch.no_grad():
        after = net(images)
    statistics = {name: tensor for name, tensor in state.items() if "running_" in name}
    return {
        "model": network,
        "input": [batch, channels, side, side],
        "outputs": outputs,
        "batch_norm_eps": eps,
        "batch_norm_momentum": momentum,
        "num_parameters": sum(parameter.numel() for parameter in net.parameters()),
        "eval_logits": digits(before.flatten()),
        "train_logits": digits(logits.flatten()),
        # of all parameters together; then per parameter: name, norm, probe
        "gradient_norm": digits([torch.stack([parameter.grad.norm() for parameter in net.parameters()]).norm()])[0],
        "gradients": [
            [name, *digits([parameter.grad.norm(), probe(name, parameter.grad)])]
            for name, parameter in net.named_parameters()
        ],
        # per statistic, after the training pass: name, norm, probe
        "statistics": [[name, *digits([tensor.norm(), probe(name, tensor)])] for name, tensor in statistics.items()],
        "updated_eval_logits": digits(after.flatten()),
    }


def thinned(case):
    """Keeps the file small: of a deep network only every seventh gradient and statistic (the last ones always)."""
    for key in ("gradients", "statistics"):
        rows = case[key]
        if len(rows) > 60:
            case[key] = [row for index, row in enumerate(rows) if index % 7 == 0 or index >= len(rows) - 2]
    return case


def describe(name):
    """Trainable parameters and a hash of all names and shapes, for 3 channels and 1000 classes (CIFAR forms: 100)."""
    imagenet = ("resnet-18", "resnet-34", "resnet-50", "resnet-50-keras", "resnet-50-fconv", "efficientnet-b0")
    net = NETWORKS[name](3, 1000 if name in imagenet else 100)
    state = {name: tensor for name, tensor in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    lines = "".join(f"{name} {list(tensor.shape)}\n" for name, tensor in sorted(state.items()))
    return [sum(parameter.numel() for parameter in net.parameters()), fnv1a(lines)]


def numbers(value):
    """All numbers of a JSON value in a fixed order."""
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, (int, float)) else []


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with models.json, write nothing")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    made = {
        "made_with": f"torch {torch.__version__.split('+')[0]}, torchvision {torchvision.__version__.split('+')[0]}",
        "networks": {name: describe(name) for name in NETWORKS},
        "cases": [thinned(run(*case)) for case in CASES],
    }
    lines = [json.dumps(case) for case in made["cases"]]
    head = json.dumps({key: made[key] for key in ("made_with", "networks")})
    text = head[:-1] + ', "cases": [\n' + ",\n".join(lines) + "\n]}\n"
    path = pathlib.Path(__file__).with_name("models.json")
    if arguments.check:
        old, new = numbers(json.loads(path.read_text())), numbers(json.loads(text))
        if len(old) != len(new) or not numpy.allclose(old, new, rtol=1e-7, atol=1e-9):
            sys.exit(f"{path.name} differs from what {made['made_with']} computes; run without --check to rewrite it")
    else:
        path.write_text(text)


if __name__ == "__main__":
    main()
