"""mxa-lite: train one small model as designer and executor of multi-agent systems."""

__version__ = "0.1.0"
