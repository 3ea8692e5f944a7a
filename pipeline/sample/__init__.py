"""Procedural scenes with exact truth, for demos, scale tests and benchmarks; never a substitute for real data."""

from pipeline.sample.landscape import SAMPLE_CLASSES, Landscape, SampleClass, Truth
from pipeline.sample.phantom import PHANTOM_CLASSES, Phantom
from pipeline.sample.source import SampleSource, parse_sample
from pipeline.sample.write import sample_scene, write_sample

__all__ = [
    "PHANTOM_CLASSES",
    "SAMPLE_CLASSES",
    "Landscape",
    "Phantom",
    "SampleClass",
    "SampleSource",
    "Truth",
    "parse_sample",
    "sample_scene",
    "write_sample",
]
