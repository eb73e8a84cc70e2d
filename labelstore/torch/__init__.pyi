from . import lightning as lightning
from . import recipes as recipes
from .collate import collate_views as collate_views
from .dataset import Show as Show
from .dataset import SoftLabelDataset as SoftLabelDataset
from .join import (
    HuggingFaceViews as HuggingFaceViews,
)
from .join import (
    ViewJoin as ViewJoin,
)
from .join import (
    WebDatasetViews as WebDatasetViews,
)
from .labels.recover import recover as recover
from .labels.soft_labels import TorchSoftLabels as TorchSoftLabels
from .labels.stored_labels import StoredLabels as StoredLabels
from .losses.losses import (
    ferkd_loss as ferkd_loss,
)
from .losses.losses import (
    fkd_loss as fkd_loss,
)
from .losses.losses import (
    label_entropy as label_entropy,
)
from .losses.losses import (
    mean_weight as mean_weight,
)
from .losses.losses import (
    soft_cross_entropy as soft_cross_entropy,
)
from .losses.losses import (
    soft_kl_divergence as soft_kl_divergence,
)
from .losses.losses import (
    vanilla_kd_loss as vanilla_kd_loss,
)
from .mixing import (
    CutMix as CutMix,
)
from .mixing import (
    InTurn as InTurn,
)
from .mixing import (
    Mixed as Mixed,
)
from .mixing import (
    MixUp as MixUp,
)
from .mixing import (
    OneOf as OneOf,
)
from .mixing import (
    SelfMix as SelfMix,
)
from .mixing import (
    mix_batch as mix_batch,
)
from .photos import normalize as normalize
from .sampler import ViewSampler as ViewSampler
