from . import lightning as lightning, recipes as recipes, timm as timm
from .collate import collate_views as collate_views
from .dataset import Show as Show, SoftLabelDataset as SoftLabelDataset
from .joins.hugging_face import HuggingFaceViews as HuggingFaceViews
from .joins.streaming import StreamingViews as StreamingViews
from .joins.view_join import ViewJoin as ViewJoin
from .joins.webdataset import WebDatasetViews as WebDatasetViews
from .label_cost import label_seconds as label_seconds
from .labels.recovery import recover as recover
from .labels.soft_labels import TorchSoftLabels as TorchSoftLabels
from .labels.stored_labels import StoredLabels as StoredLabels
from .losses.losses import (
    ferkd_loss as ferkd_loss,
    fkd_loss as fkd_loss,
    hard_labels as hard_labels,
    label_entropy as label_entropy,
    mean_weight as mean_weight,
    soft_cross_entropy as soft_cross_entropy,
    soft_kl_divergence as soft_kl_divergence,
    vanilla_kd_loss as vanilla_kd_loss,
)
from .mixing import (
    CutMix as CutMix,
    InTurn as InTurn,
    Mixed as Mixed,
    MixUp as MixUp,
    OneOf as OneOf,
    SelfMix as SelfMix,
    mix_batch as mix_batch,
)
from .photos import normalize as normalize, validation_folder as validation_folder
from .sampler import ViewSampler as ViewSampler
