"""A trained backbone in detection, instance and semantic segmentation."""
