from .class_names import human_names as human_names
from .info import TeacherInfo as TeacherInfo
from .load import load_teacher as load_teacher
from .teacher import Teacher as Teacher
from .timm_networks import (
    create_model as create_model,
    imagenet_class_names as imagenet_class_names,
)
