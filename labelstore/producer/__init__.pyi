from .generation import (
    Report as Report,
    generate as generate,
    generate_together as generate_together,
)
from .settings import FIDELITIES as FIDELITIES, Output as Output, Recipe as Recipe
