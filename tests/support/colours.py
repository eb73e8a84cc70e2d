"""A teacher that names the colour of a photo: red, green or blue."""

FACTORY = """
import torch

class Colour(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(4.0))
    def forward(self, x):
        return self.scale * x.mean((2, 3))

def colour():
    return Colour(), {
        "input_size": (32, 48), "mean": (0.5,) * 3, "std": (0.5,) * 3,
        "interpolation": "bicubic", "class_names": ["red", "green", "blue"],
    }
"""
"""A module for ``python:mine:colour``; its one weight is a scale, at first 4."""
