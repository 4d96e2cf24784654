"""The reference on a GPU: what a PyTorch user would write after reading about speed, on the same libtorch.

R1, tuned eager: uint8 images resident on the GPU, crop, flip and standardise a batch at a time there, bf16 autocast,
channels-last, cuDNN search, TF32, fused SGD, gradients set to none, no synchronisation per step. R2: the same under
torch.compile(mode="max-autotune"). R0, the usual script with a DataLoader, is there for orientation.

  gpu.py steps   `go N` on stdin, {"images":, "seconds":} on stdout, as reference/train.py; `profile N FILE` writes a trace
  gpu.py gate    single steps from the other side's weights, before any timing counts
  gpu.py e2e     one whole Fashion-MNIST training, start-up and evaluation included
"""

import json
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

import command_line
import data
import gate
import models

DEVICE = "cuda:0"


class ResidentBatches:
    """Crops, flips and standardises on the GPU; indices are drawn there too, so that nothing waits for the host."""

    def __init__(self, images, labels, side, batch, mean=data.MEAN, std=data.STD, pad=0):
        # [images, height, width, channels]; the edge is repeated where there is padding
        padding = ((0, 0), (pad, pad), (pad, pad), (0, 0))
        images = np.pad(images if images.ndim == 4 else images[..., None], padding, mode="edge")
        self.pixels = torch.from_numpy(images).to(DEVICE)
        self.labels = torch.from_numpy(labels).long().to(DEVICE)
        self.side, self.batch = side, batch
        self.mean = torch.tensor(mean, device=DEVICE) * 255
        self.scale = 1 / (torch.tensor(std, device=DEVICE) * 255)
        self.generator = torch.Generator(DEVICE).manual_seed(0)

    def __iter__(self):
        order = torch.randperm(len(self.labels), generator=self.generator, device=DEVICE)
        room = self.pixels.shape[1] - self.side + 1
        places = torch.arange(self.side, device=DEVICE)
        for indices in order.split(self.batch):
            draw = (len(indices), 1)
            top, left = torch.randint(0, room, (2, *draw), generator=self.generator, device=DEVICE)
            flip = torch.rand(draw, generator=self.generator, device=DEVICE) < 0.5
            rows = top + places
            columns = left + torch.where(flip, self.side - 1 - places, places)
            cut = self.pixels[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
            yield ((cut.float() - self.mean) * self.scale).permute(0, 3, 1, 2), self.labels[indices]


def usual_batches(images, labels, side, batch, workers):
    from torchvision import transforms

    transform = transforms.Compose([
        transforms.RandomCrop(side), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
        transforms.Normalize(data.MEAN, data.STD)])
    loader = torch.utils.data.DataLoader(
        data.PilImages(images, labels, transform), batch, shuffle=True, num_workers=workers, drop_last=True,
        pin_memory=True, persistent_workers=True)
    while True:
        for images, labels in loader:
            yield (images.to(DEVICE, non_blocking=True, memory_format=torch.channels_last),
                   labels.to(DEVICE, non_blocking=True))


def forever(batches):
    while True:
        yield from batches


def step_of(model, optimizer, bf16):
    def step(images, labels):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


SIDE = gate.Side(DEVICE, step_of)


def steps(arguments):
    count = max(arguments.batch * 8, 256)
    images, labels = data.synthetic(arguments.side, count, 100)
    torch.manual_seed(0)
    model = models.build(arguments.model, 100).to(DEVICE, memory_format=torch.channels_last).train()
    if arguments.variant == "r0":
        batches = usual_batches(images, labels, arguments.side, arguments.batch, arguments.workers)
    else:
        batches = forever(ResidentBatches(images, labels, arguments.side, arguments.batch))
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, fused=arguments.variant != "r0")
    if arguments.variant == "r2":
        model = torch.compile(model, mode="max-autotune")
    step = step_of(model, optimizer, True)

    def run(num_steps):
        total = torch.zeros((), device=DEVICE)
        for _ in range(num_steps):
            loss = step(*next(batches))
            if arguments.variant == "r0":
                loss.item()
            total += loss
        return float(total)

    run(arguments.warm_up)
    torch.cuda.reset_peak_memory_stats()
    print(json.dumps({"ready": True, "precision": "bf16-nhwc"}), flush=True)
    for line in sys.stdin:
        order, num_steps, *file = line.split(maxsplit=2)
        # of the whole process: the backward pass has a thread of its own
        start, computed = time.perf_counter(), time.process_time()
        if order == "profile":
            with torch.profiler.profile() as profile:
                run(int(num_steps))
            profile.export_chrome_trace(file[0].strip())
        else:
            run(int(num_steps))
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - computed
        peak_mib = torch.cuda.max_memory_allocated() / 2**20
        print(json.dumps({"images": int(num_steps) * arguments.batch, "seconds": seconds, "cpu_seconds": cpu_seconds,
                          "peak_mib": peak_mib}), flush=True)


def end_to_end(arguments):
    """`per_class` training images, padded random crops and flips, the whole test set after each epoch."""
    images, labels = data.fashion_mnist(arguments.data, "train")
    chosen = data.first_per_class(labels, arguments.per_class)
    test_images, test_labels = data.fashion_mnist(arguments.data, "t10k")
    torch.manual_seed(arguments.seed)
    mean, std = (0.2860,), (0.3530,)
    model = models.build(arguments.model, 10, 1).to(DEVICE, memory_format=torch.channels_last).train()
    train = ResidentBatches(images[chosen], labels[chosen], 28, arguments.batch, mean, std, pad=4)
    pixels = torch.from_numpy(test_images.copy()).to(DEVICE).unsqueeze(1).float() / (255 * std[0]) - mean[0] / std[0]
    test = list(zip(pixels.split(500), torch.from_numpy(test_labels).to(DEVICE).split(500)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.epochs)
    step = step_of(model, optimizer, True)
    for _ in range(arguments.epochs):
        for batch in train:
            step(*batch)
        schedule.step()
        model.eval()
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            correct = sum((model(images).argmax(1) == labels).sum() for images, labels in test)
        model.train()
    print(json.dumps({"accuracy": float(correct) / len(test_labels)}))


def choose_fast_kernels(_):
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = True


if __name__ == "__main__":
    command_line.run(
        __doc__, {"steps": steps, "gate": lambda arguments: gate.steps(arguments, SIDE), "e2e": end_to_end}, ["r0", "r1", "r2"],
        # precision: f32-nhwc, bf16-nhwc
        {"model": "resnet-18", "workers": 8, "warm-up": 20, "precision": "bf16-nhwc"}, choose_fast_kernels)
