"""Configs of kernels, and which one to use: knows keys, configs and defaults, nothing else."""

from .config import Config
from .table import Choice, ConfigTable

__all__ = ["Choice", "Config", "ConfigTable"]
