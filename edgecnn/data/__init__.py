"""Images for calibration, training and evaluation: where they come from and how they become a net's input."""

from edgecnn.data.accuracy import Accuracy, score
from edgecnn.data.dataset import Dataset, ImageRecord
from edgecnn.data.load import load_profile
from edgecnn.data.preprocessing import Preprocessing, normalize, preprocess_image, raw_image
from edgecnn.data.profile import Profile, profile_names, read_profile
from edgecnn.data.shipped import shipped

__all__ = [
    "Accuracy",
    "Dataset",
    "ImageRecord",
    "Preprocessing",
    "Profile",
    "load_profile",
    "normalize",
    "preprocess_image",
    "profile_names",
    "raw_image",
    "read_profile",
    "score",
    "shipped",
]
