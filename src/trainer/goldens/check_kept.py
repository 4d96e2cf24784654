"""Compares a kept network in PyTorch with `orchestrator predict`: the lines of docs/models.md, on image files.

    pip install torch==2.11.0 torchvision==0.26.0 safetensors pillow numpy
    orchestrator predict weights.safetensors *.png --output json > predictions.json
    python check_kept.py weights.safetensors predictions.json

Images must be squares of the network's own side, so that nothing is resized or cropped. Prints the largest difference
of the scores and fails above 1e-4.
"""

import json
import sys

import numpy
import PIL.Image
import safetensors
import torch
import torchvision

path, predictions = sys.argv[1:]
with safetensors.safe_open(path, "pt") as file:
    about = {key: json.loads(text) for key, text in file.metadata().items() if key != "format"}
    weights = {name: file.get_tensor(name) for name in file.keys()}
classes = about["class_names"]
build = getattr(torchvision.models, about["settings"]["model"].replace("-", ""))
model = build(num_classes=len(classes))
model.load_state_dict(weights)
model.eval()
mean, std = (torch.tensor(about[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
largest = 0.0
found = json.load(open(predictions))["predictions"]
for prediction in found:
    pixels = numpy.asarray(PIL.Image.open(prediction["image"]).convert("RGB"), dtype=numpy.float32)
    side = about["input"]["side"]
    assert pixels.shape == (side, side, 3), f"{prediction['image']} is not {side} x {side}"
    with torch.no_grad():
        logits = model((torch.from_numpy(pixels).permute(2, 0, 1)[None] - mean) / std)[0]
    scores = torch.tensor([prediction["scores"][name] for name in classes])
    largest = max(largest, (logits - scores).abs().max().item())
    assert classes[logits.argmax()] == prediction["class"], prediction["image"]
print(f"{len(found)} images, {len(classes)} classes: the largest difference of a score is {largest:.2g}")
sys.exit(largest > 1e-4)
