"""What a layer's key stands for, in memory: its subject model, and its SAE or what stands in place of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp_assets.layers import Layer, MissingSae
from interp_assets.models import subject_model
from interp_assets.study import Study
from resources.errors import UnusableInput
from resources.loaded_models import LoadedModels
from resources.model_loading import pick_device
from resources.sparse_autoencoders.controls import Neurons, NeuronsOf
from resources.sparse_autoencoders.read import read_sae

if TYPE_CHECKING:
    from resources.sparse_autoencoders.autoencoder import SparseAutoencoder
    from resources.subject_model import SubjectModel


def subject_of(study: Study, layer: Layer, models: LoadedModels) -> SubjectModel:
    """The subject model with the weights that this layer is about."""
    return subject_model(study, models, layer.untrained)


def sae_of(study: Study, layer: Layer, models: LoadedModels) -> SparseAutoencoder | Neurons:
    """
    Raises:
        UnusableInput: the SAE's files cannot be used, or the model has no MLP of a known form there.
    """
    if isinstance(layer.location, NeuronsOf):
        return subject_of(study, layer, models).neurons(layer.hookpoint, layer.location.top)
    if isinstance(layer.location, MissingSae):
        raise UnusableInput(layer.location.problem)
    return read_sae(layer.location, pick_device(study.subject_model.device))
