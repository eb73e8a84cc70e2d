from .generation import (
    Report as Report,
)
from .generation import (
    generate as generate,
)
from .generation import (
    generate_together as generate_together,
)
from .settings import FIDELITIES as FIDELITIES
from .settings import Output as Output
from .settings import Recipe as Recipe
