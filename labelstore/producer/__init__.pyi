from .engines.local import LocalEngine as LocalEngine
from .generation import (
    Report as Report,
    generate as generate,
    generate_together as generate_together,
)
from .settings import (
    FIDELITIES as FIDELITIES,
    LabelSettings as LabelSettings,
    Output as Output,
    RunOptions as RunOptions,
)
