"""An Inception network whose weights are random, in the layout of the published file.

The code that reads and runs it is the real one; its numbers mean nothing beside published ones.
"""

from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from ffcore.evaluate.metrics import import_torch_fidelity


def write(path: Path) -> Path:
    """Write the weights, and return where."""
    network = _layout(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    torch.save(network.state_dict(), path)
    return path


def _layout(path: Path) -> nn.Module:
    """Return torch-fidelity's network, which cannot be made without weights to load."""
    extractor = import_torch_fidelity("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    torch.save({}, path)
    with patch.object(extractor, "load_state_dict"):
        network: nn.Module = extractor(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
        )
    return network
