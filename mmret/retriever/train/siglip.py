"""SigLIP under training, as :mod:`mmret.retriever.train.clip`: by InfoNCE with the recipe's temperature, as every kind is.

Its own loss (a sigmoid of each pair), whose scale and bias stay in the checkpoint as they were, is not built. Cost: that of CLIP,
but that every text is as long as the tower's limit.
"""

from __future__ import annotations

import torch

from mmret.retriever.models.siglip import SiglipRetriever
from mmret.retriever.train.clip import ClipEmbedder
from mmret.retriever.train.tower import SiglipImageTower


class SiglipEmbedder(ClipEmbedder):
    """See :class:`ClipEmbedder`; the text tower has its projection inside."""

    retriever_class = SiglipRetriever
    tower_class = SiglipImageTower

    def text_parameters(self) -> list[torch.nn.Parameter]:
        return list(self.model.text_model.parameters())

    def called_in_parts(self) -> list[torch.nn.Module]:
        return self.tower.blocks[-1:] if self.recipe.trainable == "text+blocks" else []
