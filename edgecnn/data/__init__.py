"""Where images come from: profiles, sources, preprocessing, augmentation."""
