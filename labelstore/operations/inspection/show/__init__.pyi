from .image import (
    chosen_views as chosen_views,
    describe as describe,
    overview as overview,
    position_of as position_of,
)
from .sheet import draw_sheet as draw_sheet, photo_of as photo_of
