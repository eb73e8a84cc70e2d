from .load import imagenet_class_names as imagenet_class_names, load_teacher as load_teacher
from .teacher import Teacher as Teacher
