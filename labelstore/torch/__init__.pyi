from . import recipes as recipes, lightning as lightning

