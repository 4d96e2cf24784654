"""The reference: what a PyTorch user would write, on the same libtorch.

R0, the usual script: DataLoader with workers, torchvision transforms on PIL images, default SGD, f32, `loss.item()`
at every step. R1, a tuned one: data resident as uint8, batched augmentation, bf16 and channels-last where they are
faster here, fused SGD, no synchronisation per step. R2, the same under `torch.compile`.

  train.py steps   speaks a line protocol for interleaved timing: `go N` on stdin, {"images":, "seconds":} on stdout
  train.py gate    single steps from the other side's weights, before any timing counts
  train.py e2e     one whole Fashion-MNIST training, start-up and evaluation included
  train.py digits  one small trial, tuned: what a sweep script would start once per seed
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

import command_line
import data
import gate
import models
from gate import precision_of


def step_of(model, optimizer, bf16, smoothing=0.0):
    def step(images, labels):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(images), labels, label_smoothing=smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


SIDE = gate.Side("cpu", step_of)


def forever(batches):
    while True:
        yield from batches


def usual_loader(images, labels, side, batch, workers):
    from torchvision import transforms

    transform = transforms.Compose([
        transforms.RandomCrop(side),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(data.MEAN, data.STD),
    ])
    return torch.utils.data.DataLoader(
        data.PilImages(images, labels, transform), batch, shuffle=True, num_workers=workers, drop_last=True,
        persistent_workers=workers > 0)


def make_steps(arguments, precision):
    """A function that makes n steps and returns once they are done."""
    bf16, channels_last = precision_of(precision)
    count = max(arguments.batch * 8, 256)
    images, labels = data.synthetic(arguments.side, count, 100)
    torch.manual_seed(0)
    model = models.build(arguments.model, 100).train()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    if arguments.variant == "r0":
        batches = forever(usual_loader(images, labels, arguments.side, arguments.batch, arguments.workers))
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    else:
        resident = data.ResidentBatches(
            images, labels, arguments.side, arguments.batch, data.MEAN, data.STD, channels_last)
        batches = forever(resident)
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, fused=True)
    step = step_of(torch.compile(model) if arguments.variant == "r2" else model, optimizer, bf16)

    def run(num_steps):
        total = torch.zeros(())
        for _ in range(num_steps):
            loss = step(*next(batches))
            if arguments.variant == "r0":
                total += loss.item()
            else:
                total += loss
        return float(total)

    return run


def timed(run, num_steps):
    start = time.perf_counter()
    run(num_steps)
    return time.perf_counter() - start


def steps(arguments):
    """Picks the fastest precision first where asked to, then serves blocks of steps."""
    if arguments.variant == "r0":
        arguments.precision = "f32-nchw"
    if arguments.precision == "auto":
        seconds = {}
        for precision in ("f32-nchw", "f32-nhwc", "bf16-nhwc"):
            run = make_steps(arguments, precision)
            run(2)
            seconds[precision] = min(timed(run, 4) for _ in range(3))
        arguments.precision = min(seconds, key=seconds.get)
    run = make_steps(arguments, arguments.precision)
    run(3)
    print(json.dumps({"ready": True, "precision": arguments.precision}), flush=True)
    for line in sys.stdin:
        num_steps = int(line.split()[1])
        seconds = timed(run, num_steps)
        print(json.dumps({"images": num_steps * arguments.batch, "seconds": seconds}), flush=True)


def evaluate(model, batches, bf16):
    model.eval()
    correct = total = 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for images, labels in batches:
            correct += int((model(images).argmax(1) == labels).sum())
            total += len(labels)
    model.train()
    return correct / total


def end_to_end(arguments):
    """Fashion-MNIST: `per_class` training images, padded random crops and flips, the whole test set after each epoch."""
    images, labels = data.fashion_mnist(arguments.data, "train")
    chosen = data.first_per_class(labels, arguments.per_class)
    images, labels = images[chosen], labels[chosen]
    test_images, test_labels = data.fashion_mnist(arguments.data, "t10k")
    torch.manual_seed(arguments.seed)
    bf16, channels_last = precision_of("f32-nchw" if arguments.variant == "r0" else arguments.precision)
    model = models.build(arguments.model, 10, 1).train()
    mean, std = (0.2860,), (0.3530,)
    if arguments.variant == "r0":
        from torchvision import transforms

        finish = [transforms.ToTensor(), transforms.Normalize(mean, std)]
        augment = [transforms.RandomCrop(28, padding=4, padding_mode="edge"), transforms.RandomHorizontalFlip()]
        loader = torch.utils.data.DataLoader
        train = loader(data.PilImages(images, labels, transforms.Compose(augment + finish)), arguments.batch,
                       shuffle=True, num_workers=arguments.workers, persistent_workers=arguments.workers > 0)
        test = loader(data.PilImages(test_images, test_labels, transforms.Compose(finish)), 500,
                      num_workers=arguments.workers, persistent_workers=arguments.workers > 0)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    else:
        if channels_last:
            model = model.to(memory_format=torch.channels_last)
        train = data.ResidentBatches(images, labels, 28, arguments.batch, mean, std, channels_last, pad=4)
        pixels = torch.from_numpy(test_images.copy()).unsqueeze(1)
        scale = 1 / (255 * std[0])
        test = [(pixels[i : i + 500].float() * scale - mean[0] / std[0], torch.from_numpy(test_labels[i : i + 500]))
                for i in range(0, len(pixels), 500)]
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.epochs)
    step = step_of(model, optimizer, bf16)
    accuracy = 0.0
    for _ in range(arguments.epochs):
        total = torch.zeros(())
        for batch in train:
            loss = step(*batch)
            total += loss.item() if arguments.variant == "r0" else loss
        schedule.step()
        accuracy = evaluate(model, test, bf16)
    print(json.dumps({"accuracy": accuracy}))


def digits(arguments):
    """ResNet-8 on 50 handwritten digits per class as they are, the whole test set after each epoch."""
    images, labels = data.digits(arguments.data, "train")
    chosen = data.first_per_class(labels, 50)
    test_images, test_labels = data.digits(arguments.data, "test")
    torch.manual_seed(arguments.seed)
    model = models.build("resnet-8", 10, 1).train()
    mean, std = (float(images.mean()) / 255,), (float(images.std()) / 255,)
    bf16, channels_last = precision_of(arguments.precision)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    train = data.ResidentBatches(images[chosen], labels[chosen], 8, 50, mean, std, channels_last, augment=False)
    pixels = torch.from_numpy(test_images.copy()).unsqueeze(1).float() / (255 * std[0]) - mean[0] / std[0]
    test = [(pixels, torch.from_numpy(test_labels))]
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    step = step_of(model, optimizer, bf16)
    accuracy = 0.0
    print(json.dumps({"ready": True}), flush=True)
    for _ in range(20):
        for batch in train:
            step(*batch)
        schedule.step()
        accuracy = evaluate(model, test, bf16)
    print(json.dumps({"accuracy": accuracy}))


if __name__ == "__main__":
    command_line.run(
        __doc__, {"steps": steps, "gate": lambda arguments: gate.steps(arguments, SIDE), "e2e": end_to_end,
                  "digits": digits}, ["r0", "r1", "r2"],
        # precision: auto, f32-nchw, f32-nhwc, bf16-nhwc
        {"model": "resnet-20", "threads": 2, "workers": 2, "precision": "auto"},
        lambda arguments: torch.set_num_threads(arguments.threads))
